/** Pools with replicas for tests: a map of a cluster's members, and the member that answered. */
import path from 'node:path';
import type { BanyanPool } from '../../src/app/database/banyan-pool.ts';
import { createPool, type Pool, type PoolOptions } from '../../src/app/database/pool.ts';
import { publishRuntimeMap } from '../../src/map/map-file.ts';
import type { Hold } from '../../src/map/runtime-map.ts';
import type { Cluster, ClusterMember } from './cluster.ts';
import { until } from './until.ts';

export class RoutedPools {
  readonly cluster: Cluster;
  readonly mapFile: string;

  constructor(cluster: Cluster) {
    this.cluster = cluster;
    this.mapFile = path.join(cluster.newFolder(), 'map.json');
  }

  /** Makes what `serverOf` calls. */
  async prepare(): Promise<void> {
    await this.cluster.primary.ask(
      `create or replace function whereami() returns text language sql stable
       as $$ select current_setting('cluster_name') $$`,
    );
    await this.cluster.caughtUp();
  }

  /** Writes the map: of all members, the primary not first. */
  publish(
    members: ClusterMember[] = this.cluster.members.toReversed(),
    hold?: Hold,
    dataCentreOf: (member: ClusterMember) => string = () => 'local',
  ) {
    return publishRuntimeMap(this.mapFile, {
      deployment: 'test',
      dataCentre: 'local',
      database: {
        name: 'postgres',
        shards: [
          {
            id: '0',
            members: members.map(member => ({
              host: member.host,
              port: member.port,
              dataCentre: dataCentreOf(member),
            })),
            ...(hold ? { hold } : {}),
          },
        ],
      },
      assets: { baseUrl: '' },
    });
  }

  /** A pool that follows the map. Ended with the cluster. */
  pool(options: PoolOptions = {}): Pool {
    const connectionString = this.cluster.primary.url();
    return this.cluster.adopt(createPool({ connectionString, mapFile: this.mapFile, ...options }));
  }

  /** The same, when its reads reach replicas. */
  async reading(options: PoolOptions = {}): Promise<Pool> {
    const pool = this.pool(options);
    await until(async () => (await serverOf(pool)) !== this.cluster.primary.name, {
      what: 'reads reach a replica',
    });
    return pool;
  }
}

/** The name of the member that answers a read. */
export async function serverOf(pool: Pick<Pool, 'query'>): Promise<string> {
  const { rows } = await pool.query<{ name: string }>(WHERE_AM_I);
  return rows[0]!.name;
}

/** A read that says which server it was: nobody sees into the function (`RoutedPools.prepare` makes it). */
export const WHERE_AM_I = 'select whereami() as name';

/** The id of the process that runs a client's statements; its types leave it out. */
export function processOf(client: object): number | null {
  return (client as { processID: number | null }).processID;
}

/** What the pool knows; for tests that wait until it knows it. */
export function routerOf(pool: Pool) {
  const { router } = pool as BanyanPool;
  if (!router) throw new Error('the pool has no replicas');
  return router;
}
