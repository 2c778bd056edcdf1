/** The environment of an application's processes: what connects it to the rest of its deployment. */
import { CACHE_URL_VARIABLE, DRAIN_VARIABLE, QUEUE_URL_VARIABLE } from '../app/environment.ts';
import { MAP_VARIABLE } from '../map/map-file.ts';
import type { CompleteTopology } from '../topology/complete.ts';
import { cacheUrl } from './cache/context.ts';
import type { Deployment } from './deployment.ts';
import { queueUrl } from './queue/context.ts';

/** Of servers that Banyan does not run: secrets. */
export interface ExternalUrls {
  cache?: string | undefined;
  queue?: string | undefined;
}

export function externalUrlsOf({
  cache,
  queue,
}: Pick<CompleteTopology, 'cache' | 'queue'>): ExternalUrls {
  return { cache: cache?.url, queue: queue?.url };
}

/**
 * @param databaseUrl with the owner's credentials: a secret
 * @param environment that the deployment was started with
 * @param external URLs of a Redis and a RabbitMQ that Banyan does not run: secrets
 */
export function applicationEnv(
  deployment: Deployment,
  web: Pick<CompleteTopology['web'], 'env' | 'drainTimeoutMs'>,
  databaseUrl: string,
  environment: NodeJS.ProcessEnv = process.env,
  external: ExternalUrls = {},
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
    [CACHE_URL_VARIABLE]: cacheUrl(deployment, external.cache),
    [QUEUE_URL_VARIABLE]: queueUrl(deployment, external.queue),
    [MAP_VARIABLE]: paths.map,
    [DRAIN_VARIABLE]: String(web.drainTimeoutMs),
  };
}
