/** How a command reaches the database of a deployment that is up. */

import { BanyanError } from '../errors.ts';
import { lockHolder } from '../machines/lock.ts';
import { readRuntimeMap } from '../map/map-file.ts';
import type { CompleteTopology } from '../topology/complete.ts';
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
  /** How many the database is in. */
  shards: number;
}

export class NoSuchShard extends BanyanError {
  constructor(asked: string, ids: readonly string[]) {
    super('NO_SUCH_SHARD', {
      what: `There is no shard ${asked}`,
      where: '--shard',
      remedy:
        ids.length > 1
          ? `The shards are ${ids.join(', ')}`
          : 'The database is in one piece: leave out --shard',
    });
  }
}

/**
 * @param shard whose primary is wanted, by its id. Default: the first
 * @throws NotRunning, NoSuchShard, NobodyTakesWrites
 */
export async function reachDatabase(
  paths: DeploymentPaths,
  topology: CompleteTopology,
  shard?: string,
): Promise<Reachable> {
  const deployment = existingDeployment(paths);
  if (!deployment) throw new NotRunning(paths.app);
  const { url } = topology.database;
  if (url) {
    if (shard !== undefined) throw new NoSuchShard(shard, []);
    return { deployment, url, superuserUrl: undefined, shards: 1 };
  }
  if (!(await lockHolder(paths.lock))) throw new NotRunning(paths.app);
  const { shards } = readRuntimeMap(paths.map).database;
  const wanted = shard === undefined ? shards[0] : shards.find(({ id }) => id === shard);
  if (!wanted) {
    throw new NoSuchShard(
      shard!,
      shards.map(({ id }) => id),
    );
  }
  const primary = await findPrimary(deployment, wanted.members);
  return {
    deployment,
    shards: shards.length,
    url: ownerUrl(deployment, primary),
    superuserUrl: superuserUrl(deployment, primary, deployment.database),
  };
}
