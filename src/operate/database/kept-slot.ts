/**
 * Lets Patroni have a logical slot on every server of a replicated database, so that who reads the log loses nothing of
 * it in a failover.
 *
 * A replica takes the slot over by a restart of its PostgreSQL, once: for that second it answers nothing, and the other
 * servers are asked.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { readRuntimeMap } from '../../map/map-file.ts';
import type { Deployment } from '../deployment.ts';
import { primaryOf } from './cluster.ts';
import { ClusterHome } from './cluster-home.ts';
import { recordOf } from './context.ts';

/** By then no node goes by settings that it read before: twice Patroni's `loop_wait`, and a little. */
const LOOP_MS = 2_500;

/** Whether some shard's servers do not have it yet. False for a database that is not replicated. */
export async function isSlotUnkept(deployment: Deployment, name: string): Promise<boolean> {
  let isUnkept = false;
  await eachCluster(deployment, async config => {
    isUnkept ||= !(name in (config.slots ?? {}));
    return undefined;
  });
  return isUnkept;
}

/** Call it with `keeps: false` before the slot is dropped, or Patroni makes it again. */
export async function keepSlot(
  deployment: Deployment,
  name: string,
  keeps: boolean,
): Promise<void> {
  let isChanged = false;
  const slot = { type: 'logical', database: deployment.database, plugin: 'pgoutput' };
  await eachCluster(deployment, async config => {
    if (name in (config.slots ?? {}) === keeps) return undefined;
    isChanged = true;
    return { slots: { [name]: keeps ? slot : null } };
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
