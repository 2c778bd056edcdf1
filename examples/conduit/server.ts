/**
 * Conduit's web server. `banyan up` runs as many of it as the topology says. It does the jobs too, unless `CONDUIT_JOBS` is `off`:
 * then there have to be workers.
 */
import type { Server } from 'node:http';
import { serve } from '@hono/node-server';
import { createPool, lifecycle } from 'banyan';
import { createApp } from './app.ts';
import { work } from './jobs/work.ts';
import { createServices } from './services.ts';

const pool = createPool();
const services = createServices(pool);
if (process.env.CONDUIT_JOBS !== 'off') void work(services);
const server = serve({
  fetch: createApp(services).fetch,
  hostname: process.env.HOST ?? '127.0.0.1',
  port: Number(process.env.PORT ?? 3000),
});
lifecycle(server as Server, {
  pool,
  onShutdown: async () => {
    await services.views.close();
    await services.cache.close();
  },
  logRequests: true,
});
