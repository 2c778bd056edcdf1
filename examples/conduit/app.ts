/** The whole application: the API under `/api`, the pages, static files. */
import { honoAssets } from 'banyan';
import { Hono } from 'hono';
import { secureHeaders } from 'hono/secure-headers';
import { apiRoutes } from './api/routes.ts';
import { avatarRoutes } from './pages/avatars.ts';
import { pageRoutes } from './pages/routes.ts';
import type { Services } from './services.ts';

export function createApp(services: Services): Hono {
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
