/** How a command reaches the database of a deployment that is up. */

import { lockHolder } from '../machines/lock.ts';
import { readRuntimeMap } from '../map/map-file.ts';
import type { CompleteTopology } from '../topology/defaults.ts';
import { NotRunning } from './control/client.ts';
import { findPrimary } from './database/primary.ts';
import { ownerUrl, superuserUrl } from './database/running.ts';
import { type Deployment, type DeploymentPaths, existingDeployment } from './deployment.ts';

export interface Reachable {
  deployment: Deployment;
  /** The owner's; a secret. */
  url: string;
  /** Undefined for a database that Banyan does not run. */
  superuserUrl: string | undefined;
}

/** @throws NotRunning */
export async function reachDatabase(
  paths: DeploymentPaths,
  topology: CompleteTopology,
): Promise<Reachable> {
  const deployment = existingDeployment(paths);
  if (!deployment) throw new NotRunning(paths.app);
  const { url } = topology.database;
  if (url) return { deployment, url, superuserUrl: undefined };
  if (!(await lockHolder(paths.lock))) throw new NotRunning(paths.app);
  const primary = await findPrimary(
    deployment,
    readRuntimeMap(paths.map).database.shards[0]!.members,
  );
  return {
    deployment,
    url: ownerUrl(deployment, primary),
    superuserUrl: superuserUrl(deployment, primary, deployment.database),
  };
}
