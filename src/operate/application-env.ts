/** The environment of an application's processes: what connects it to the rest of its deployment. */
import { CACHE_URL_VARIABLE, DRAIN_VARIABLE } from '../app/environment.ts';
import { MAP_VARIABLE } from '../map/map-file.ts';
import type { CompleteTopology } from '../topology/defaults.ts';
import { cacheUrl } from './cache/context.ts';
import type { Deployment } from './deployment.ts';

/**
 * @param databaseUrl with the owner's credentials: a secret
 * @param environment that the deployment was started with
 * @param externalCache URL of a Redis that Banyan does not run: a secret
 */
export function applicationEnv(
  deployment: Deployment,
  web: Pick<CompleteTopology['web'], 'env' | 'drainTimeoutMs'>,
  databaseUrl: string,
  environment: NodeJS.ProcessEnv = process.env,
  externalCache?: string,
): NodeJS.ProcessEnv {
  const { paths, secrets } = deployment;
  return {
    NODE_ENV: 'production',
    // Node keeps compiled code there, so that the next start is faster.
    NODE_COMPILE_CACHE: paths.compileCache,
    ...environment,
    ...web.env,
    DATABASE_URL: databaseUrl,
    BANYAN_SECRET: secrets.application,
    [CACHE_URL_VARIABLE]: cacheUrl(deployment, externalCache),
    [MAP_VARIABLE]: paths.map,
    [DRAIN_VARIABLE]: String(web.drainTimeoutMs),
  };
}
