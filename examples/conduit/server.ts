/** Conduit's web server. `banyan up` runs as many of it as the topology says. */
import type { Server } from 'node:http';
import { serve } from '@hono/node-server';
import { createPool, lifecycle } from 'banyan';
import { createApp } from './app.ts';
import { createServices } from './services.ts';

const pool = createPool();
const services = createServices(pool);
const server = serve({
  fetch: createApp(services).fetch,
  hostname: process.env.HOST ?? '127.0.0.1',
  port: Number(process.env.PORT ?? 3000),
});
lifecycle(server as Server, {
  pool,
  onShutdown: () => services.cache.close(),
  logRequests: true,
});
