/** What is done in the background, on rung 1: the web server does it. */
import './jobs/on-one-server.ts';
import './jobs/every-job.ts';
