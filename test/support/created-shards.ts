/**
 * A sharded database as Banyan makes it, for tests of what an application has: guards, lookup tables, a map, and the
 * pool of `createPool`. Beside it one PostgreSQL with the same schema, to compare with.
 */
import type pg from 'pg';
import { createPool, type Pool, type PoolOptions } from '../../src/app/database/pool.ts';
import { Placement } from '../../src/app/database/shards/declaration/placement.ts';
import { readSchema } from '../../src/app/database/shards/declaration/schema.ts';
import { hashExpression } from '../../src/app/database/shards/hash.ts';
import { uniqueColumns } from '../../src/app/database/shards/unique/columns.ts';
import { lookupTable, uniqueTables } from '../../src/app/database/shards/unique/tables.ts';
import { readRuntimeMap } from '../../src/map/map-file.ts';
import { HintedPools } from './hinted-shards.ts';
import { ShardServers } from './shard-servers.ts';
import type { Tables } from './shards.ts';

export class CreatedShards {
  readonly servers: ShardServers;
  readonly maps: HintedPools;
  readonly pool: Pool;
  /** The same schema on one server. */
  readonly one: pg.Pool;
  /** Lookup tables of columns that are unique over all shards. */
  readonly lookups: string[];

  private constructor(
    servers: ShardServers,
    maps: HintedPools,
    pool: Pool,
    one: pg.Pool,
    lookups: string[],
  ) {
    this.servers = servers;
    this.maps = maps;
    this.pool = pool;
    this.one = one;
    this.lookups = lookups;
  }

  /** @param options of the pool */
  static async start(
    count: number,
    schema: string,
    declared: { tables: Tables; unique?: string[] },
    options: PoolOptions = {},
  ): Promise<CreatedShards> {
    const servers = await ShardServers.start(count, { servers: count });
    await servers.everywhere(schema);
    const one = await servers.servers[0]!.pool({ max: 4 });
    await one.query(schema);
    const maps = HintedPools.of(servers);
    await maps.publish(declared);
    const { database } = readRuntimeMap(maps.mapFile);
    const read = await readSchema(servers.pools[0]!);
    const placement = new Placement(database, read);
    for (const [name, placed] of Object.entries(declared.tables)) {
      if (placed.kind !== 'sharded') continue;
      const [schemaName, table] = name.split('.') as [string, string];
      const hash = hashExpression(placement.tableOf(schemaName, table)!.keyType!, placed.key);
      for (const [index, { range }] of database.shards.entries()) {
        await servers.pools[index]!.query(
          `alter table ${name} add constraint banyan_shard_guard check (${hash} between ${range!.from} and ${range!.to})`,
        );
      }
    }
    const columns = uniqueColumns(database, read);
    for (const column of columns) await servers.everywhere(uniqueTables(column));
    const pool = createPool({
      connectionString: servers.urls[0],
      mapFile: maps.mapFile,
      max: 10,
      ...options,
    });
    return new CreatedShards(servers, maps, pool, one, columns.map(lookupTable));
  }

  /** A client of the pool, given back after. */
  async withClient<T>(body: (client: pg.PoolClient) => Promise<T>): Promise<T> {
    const client = await this.pool.connect();
    try {
      return await body(client);
    } finally {
      client.release();
    }
  }

  async remove(): Promise<void> {
    await this.pool.end();
    await this.maps.remove();
    await this.servers.remove();
  }
}
