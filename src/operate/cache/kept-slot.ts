/**
 * Lets Patroni have the invalidator's slot on every server of a replicated database, so that a failover loses nothing of
 * the log.
 *
 * A replica takes the slot over by a restart of its PostgreSQL, once: for that second it answers nothing, and the other
 * servers are asked.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { readRuntimeMap } from '../../map/map-file.ts';
import { primaryOf } from '../database/cluster.ts';
import { ClusterHome } from '../database/cluster-home.ts';
import { recordOf } from '../database/context.ts';
import type { Deployment } from '../deployment.ts';
import { SLOT } from './invalidator/names.ts';

/** Patroni looks once a second. */
const LOOP_MS = 2_500;

/** Whether some shard's servers do not have it yet. False for a database that is not replicated. */
export async function isSlotUnkept(deployment: Deployment): Promise<boolean> {
  let isUnkept = false;
  await eachCluster(deployment, async config => {
    isUnkept ||= !(SLOT in (config.slots ?? {}));
    return undefined;
  });
  return isUnkept;
}

/** Call it with `keeps: false` before the slot is dropped, or Patroni makes it again. */
export async function keepSlot(deployment: Deployment, keeps: boolean): Promise<void> {
  let isChanged = false;
  const slot = { type: 'logical', database: deployment.database, plugin: 'pgoutput' };
  await eachCluster(deployment, async config => {
    if (SLOT in (config.slots ?? {}) === keeps) return undefined;
    isChanged = true;
    return { slots: { [SLOT]: keeps ? slot : null } };
  });
  if (isChanged) await delay(LOOP_MS);
}

/** @param change what is to be changed of a cluster's settings; undefined: nothing */
async function eachCluster(
  deployment: Deployment,
  change: (config: { slots?: Record<string, unknown> }) => Promise<object | undefined>,
): Promise<void> {
  if (recordOf(deployment).serving !== 'cluster') return;
  const home = await ClusterHome.open(deployment);
  const { shards } = readRuntimeMap(deployment.paths.map).database;
  for (const index of shards.keys()) {
    const { cluster } = recordOf(deployment, index);
    if (!cluster) continue;
    const api = await home.api(await primaryOf(home, cluster));
    const wanted = await change(await api.config());
    if (wanted) await api.patchConfig(wanted);
  }
}
