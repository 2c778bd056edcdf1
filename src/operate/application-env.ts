/** The environment of an application's processes: what connects it to the rest of its deployment. */
import { DRAIN_VARIABLE } from '../app/environment.ts';
import { MAP_VARIABLE } from '../map/map-file.ts';
import type { CompleteTopology } from '../topology/defaults.ts';
import type { Deployment } from './deployment.ts';

/** @param databaseUrl with the owner's credentials: a secret */
export function applicationEnv(
  { paths, secrets }: Deployment,
  topology: CompleteTopology,
  databaseUrl: string,
): NodeJS.ProcessEnv {
  return {
    NODE_ENV: 'production',
    // Node keeps compiled code there, so that the next start is faster.
    NODE_COMPILE_CACHE: paths.compileCache,
    ...process.env,
    ...topology.web.env,
    DATABASE_URL: databaseUrl,
    BANYAN_SECRET: secrets.application,
    [MAP_VARIABLE]: paths.map,
    [DRAIN_VARIABLE]: String(topology.web.drainTimeoutMs),
  };
}
