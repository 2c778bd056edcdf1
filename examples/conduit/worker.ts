/** Conduit's worker: `banyan scale workers=2` runs two of it beside the web servers. */
import { createPool } from 'banyan';
import { work } from './jobs/work.ts';
import { createServices } from './services.ts';

await work(createServices(createPool()));
