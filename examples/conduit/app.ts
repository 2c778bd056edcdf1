/** The whole application on a pool: the API under `/api`, the pages, static files. */
import { honoAssets, type Pool } from 'banyan';
import { Hono } from 'hono';
import { secureHeaders } from 'hono/secure-headers';
import { apiRoutes } from './api/routes.ts';
import { avatarRoutes } from './pages/avatars.ts';
import { pageRoutes } from './pages/routes.ts';
import { createServices } from './services.ts';

export function createApp(pool: Pool): Hono {
  const services = createServices(pool);
  const app = new Hono();
  // Before the headers that keep other sites from using what is ours: whoever uses the API shows pictures.
  app.route('/', avatarRoutes(services));
  app.use(
    secureHeaders({
      contentSecurityPolicy: {
        defaultSrc: ["'self'"],
        scriptSrc: ["'none'"],
        // Articles and profiles may show pictures from anywhere.
        imgSrc: ["'self'", 'https:', 'http:', 'data:'],
        objectSrc: ["'none'"],
        baseUri: ["'none'"],
        formAction: ["'self'"],
        frameAncestors: ["'none'"],
      },
      xFrameOptions: 'DENY',
      referrerPolicy: 'strict-origin-when-cross-origin',
    }),
  );
  app.use('/static/*', honoAssets(services.assets));
  app.route('/api', apiRoutes(services));
  app.route('/', pageRoutes(services));
  return app;
}
