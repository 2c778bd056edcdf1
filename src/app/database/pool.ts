/** How an application gets its pool: options, defaults, and whose database it is. See README.md. */
import type pg from 'pg';
import { BanyanError } from '../../errors.ts';
import { readRuntimeMap } from '../../map/map-file.ts';
import type { RuntimeMap } from '../../map/runtime-map.ts';
import { readEnvironment } from '../environment.ts';
import { BanyanPool, type Pool } from './banyan-pool.ts';
import { type Staleness, stalenessMs } from './consistency/staleness.ts';
import { atMember, shareOf } from './place.ts';
import { ShardedPool } from './shards/sharded-pool.ts';

export interface PoolOptions extends pg.PoolConfig {
  /**
   * Where the database is and with which credentials.
   * Default: `DATABASE_URL`. Another URL is another database: it is used as it is, and the runtime map,
   * which tells of the deployment's own database, is not followed.
   */
  connectionString?: string | undefined;
  /**
   * Path of the runtime map to follow.
   * Default: the one that Banyan gave to this process; without one, `connectionString` alone counts.
   */
  mapFile?: string;
  /**
   * How long a request may wait for a connection while the database is away (it restarts, it moves,
   * another takes over), in milliseconds; 0 to fail at once.
   * Default: 10000 for the deployment's own database, 28000 when it is replicated, 0 for any other.
   */
  holdTimeoutMs?: number;
  /**
   * A replica that is further behind the primary than this gets no reads until it has caught up, in
   * milliseconds. What a read has to see it sees whatever this says.
   * Default: 10000.
   */
  maxReplicaLagMs?: number;
  /**
   * How old any answer may be: milliseconds, or a text such as `500ms`, `5s`, `1m`. A replica that is no
   * further behind may then answer also what it might not have seen yet, such as the request's own write.
   * A query may say it for itself: `pool.query({ text, values, staleness: '5s' })`.
   * Default: not at all; every read sees what was acknowledged before it came.
   */
  staleness?: Staleness;
  /**
   * Over several shards: how many rows a statement may have the shards send to be put together in this process'
   * memory, before it fails with SHARD_ROWS_LIMIT. Cursors and streams in an order hold only a few at a time and
   * have no such limit. More for reports over rows that are small.
   * Default: 100000.
   */
  maxMergedRows?: number;
}

export type { Pool };

export class DatabaseNotConfigured extends BanyanError {
  constructor() {
    super('DATABASE_NOT_CONFIGURED', {
      what: 'No database to connect to: there is neither a `connectionString` nor DATABASE_URL',
      where: 'createPool()',
      remedy: 'Start the application with `banyan up`, or set DATABASE_URL',
    });
  }
}

/** A wait for a connection beyond this is an error: a queue without a limit only hides an outage. */
const CONNECTION_TIMEOUT_MS = 10_000;

/** A database that restarts is back within seconds; a user waits no longer than this. */
const HOLD_TIMEOUT_MS = 10_000;
/** A primary whose machine is lost is replaced within 25 seconds; then what waits goes on. */
const REPLICATED_HOLD_TIMEOUT_MS = 28_000;
/** More would fill the memory of a server that may be one of many. */
const HELD_REQUESTS = 1_000;
/** Further behind than that something is the matter with it, and users would see the past. */
const MAX_REPLICA_LAG_MS = 10_000;

/**
 * A pool of connections to the deployment's database.
 * @throws DatabaseNotConfigured when there is nothing to connect to
 * @throws InvalidRuntimeMap when the map on disk is damaged; InvalidStaleness
 * @example
 * const pool = createPool();
 * const db = drizzle(pool);
 */
export function createPool(options: PoolOptions = {}): Pool {
  const environment = readEnvironment();
  const { mapFile = environment.mapFile, holdTimeoutMs, maxMergedRows, ...rest } = options;
  const { maxReplicaLagMs = MAX_REPLICA_LAG_MS, staleness, ...config } = rest;
  // A host names another database; with a URL beside it pg would take the URL's.
  const url = config.connectionString ?? (config.host ? undefined : environment.databaseUrl);
  if (!url && !config.host) throw new DatabaseNotConfigured();
  const old =
    staleness === undefined ? undefined : stalenessMs(staleness, 'createPool({ staleness })');

  const isOwnDatabase = options.mapFile !== undefined || url === environment.databaseUrl;
  const map = mapFile && url && isOwnDatabase ? readRuntimeMap(mapFile) : undefined;
  const hold = { timeoutMs: holdTimeoutMs ?? (map ? HOLD_TIMEOUT_MS : 0), most: HELD_REQUESTS };
  const base = {
    connectionTimeoutMillis: CONNECTION_TIMEOUT_MS,
    application_name: environment.unit,
    ...config,
  };
  const behaviour = {
    hold,
    replicatedHoldMs: holdTimeoutMs ?? REPLICATED_HOLD_TIMEOUT_MS,
    maxReplicaLagMs,
    staleness: old,
  };
  if (mapFile && url && map && isSharded(map)) {
    const { unit } = environment;
    const limits = maxMergedRows === undefined ? {} : { maxMergedRows };
    return new ShardedPool({ url, mapFile, map, config: base, behaviour, unit, ...limits });
  }
  const pool = new BanyanPool(
    {
      ...base,
      ...(map ? { max: shareOf(map, config.max) } : {}),
      ...(url ? { connectionString: atMember(url, map?.database.shards[0]?.members[0]) } : {}),
    },
    behaviour,
  );
  if (mapFile && url && map) pool.follow(mapFile, url, map, config.max);
  return pool;
}

/** Tables that are declared on one shard may come to lie on several while this process runs. */
function isSharded({ database: { shards, tables } }: RuntimeMap): boolean {
  return shards.length > 1 || tables !== undefined;
}
