/**
 * A sharded pool whose statements say themselves where they belong, for tests of everything but the planning:
 *
 *     `/* 1 *\/ select …` on the shard with index 1, `/* all *\/ …` on each, and without a word on the first.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import type pg from 'pg';
import type { LaneStatement } from '../../src/app/database/shards/lanes.ts';
import { AS_TEXT } from '../../src/app/database/shards/merge/gathered.ts';
import type { ShardPlanner } from '../../src/app/database/shards/planner.ts';
import { evenRanges } from '../../src/app/database/shards/ranges.ts';
import { ShardedPool } from '../../src/app/database/shards/sharded-pool.ts';
import { wholeRows } from '../../src/app/database/shards/submitted/open-rows.ts';
import { publishRuntimeMap, readRuntimeMap } from '../../src/map/map-file.ts';
import type { RuntimeMap } from '../../src/map/runtime-map.ts';
import { temporaryFolder } from './deployment.ts';
import type { ShardServers } from './shard-servers.ts';

const HINT = /^\/\* (\d+|all) \*\//;

export const hintPlanner = (): ShardPlanner => ({
  async execute(config, lanes) {
    const statement = (typeof config === 'string' ? { text: config } : config) as LaneStatement;
    const [, where = '0'] = HINT.exec(statement.text) ?? [];
    const wantsWrite = !/^\s*(select|show)/i.test(statement.text.replace(HINT, ''));
    if (where !== 'all') return lanes.query(Number(where), statement, { wantsWrite });
    const everywhere = (on: typeof lanes) =>
      Promise.all(
        Array.from({ length: on.count }, (_, i) => on.query(i, statement, { wantsWrite })),
      );
    const results: pg.QueryResult[] = await (wantsWrite
      ? lanes.atomically(everywhere)
      : everywhere(lanes));
    const rowCount = results.reduce((sum, result) => sum + (result.rowCount ?? 0), 0);
    return Object.assign(results[0]!, { rows: results.flatMap(({ rows }) => rows), rowCount });
  },
  onlyShard(text) {
    const [, where = '0'] = HINT.exec(text) ?? [];
    return where === 'all' ? undefined : Number(where);
  },
  async open(config, lanes) {
    const whole = { ...config, rowMode: 'array', types: AS_TEXT };
    return wholeRows((await this.execute(whole as never, lanes)) as never);
  },
  copy: async () => undefined,
  direct: () => undefined,
});

interface Address {
  readonly host: string;
  readonly port: number;
}

export class HintedPools {
  readonly mapFile = path.join(temporaryFolder(), 'map.json');
  readonly #url: string;
  readonly #members: () => Address[][];
  #pools: ShardedPool[] = [];

  /**
   * @param url of the database, on any of the members
   * @param members of each shard; each is another server
   */
  constructor(url: string, members: () => Address[][]) {
    this.#url = url;
    this.#members = members;
  }

  /** Each shard must be on a server of its own, as in the runtime map. */
  static of({ urls, servers }: ShardServers): HintedPools {
    return new HintedPools(urls[0]!, () => servers.map(server => [server]));
  }

  /** @param declared of the map's database */
  async publish(
    declared: Pick<RuntimeMap['database'], 'tables' | 'unique' | 'uniqueFilling'> = {},
  ): Promise<void> {
    const shards = this.#members();
    const ranges = evenRanges(shards.length);
    await publishRuntimeMap(this.mapFile, {
      deployment: 'test',
      dataCentre: 'local',
      database: {
        name: new URL(this.#url).pathname.slice(1),
        shards: shards.map((members, index) => ({
          id: `s${index}`,
          range: ranges[index]!,
          members: members.map(({ host, port }) => ({ host, port, dataCentre: 'local' })),
        })),
        ...declared,
      },
      assets: { baseUrl: '' },
    });
  }

  pool(
    config: pg.PoolConfig = {},
    options: { holdTimeoutMs?: number; deadlockTimeoutMs?: number } = {},
  ) {
    const holdMs = options.holdTimeoutMs ?? 20_000;
    const pool = new ShardedPool({
      url: this.#url,
      mapFile: this.mapFile,
      map: readRuntimeMap(this.mapFile),
      config: { max: 8, connectionTimeoutMillis: 10_000, ...config },
      behaviour: {
        hold: { timeoutMs: holdMs, most: 1_000 },
        replicatedHoldMs: holdMs,
        maxReplicaLagMs: 10_000,
        staleness: undefined,
      },
      unit: 'web-1',
      planner: hintPlanner,
      ...(options.deadlockTimeoutMs ? { deadlockTimeoutMs: options.deadlockTimeoutMs } : {}),
    });
    this.#pools.push(pool);
    return pool;
  }

  async remove(): Promise<void> {
    await Promise.all(this.#pools.map(pool => (pool.ending ? undefined : pool.end())));
    await rm(path.dirname(this.mapFile), { recursive: true, force: true });
  }
}
