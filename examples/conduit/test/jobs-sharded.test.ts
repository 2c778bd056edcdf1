/** The same on four databases, where a worker does it and the web server does not. */
import './jobs/on-shards-with-a-worker.ts';
import './jobs/every-job.ts';
