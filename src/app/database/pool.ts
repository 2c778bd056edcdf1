/** `createPool`: what the application says of its pool, and what follows from where it runs. */
import type pg from 'pg';
import { BanyanError } from '../../errors.ts';
import { readRuntimeMap } from '../../map/map-file.ts';
import { readEnvironment } from '../environment.ts';
import { at, BanyanPool, firstOf, type Pool, shareOf } from './banyan-pool.ts';
import { type Staleness, stalenessMs } from './consistency/staleness.ts';

export type { Pool } from './banyan-pool.ts';

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
   * How old an answer may be, for all queries that do not say it themselves (`query({ text, staleness: '5s' })`):
   * milliseconds, or a text such as `'500ms'`, `'5s'`, `'1m'`. Then any replica that lags no more may answer.
   * Default: not at all: who wrote something sees it, on whatever server.
   */
  staleness?: Staleness;
  /**
   * A replica that lags by more gets no reads, in milliseconds.
   * Default: 10000.
   */
  maxReplicaLagMs?: number;
}

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
/** A user who waits for what is older than this thinks that it is lost. */
const MAX_REPLICA_LAG_MS = 10_000;

/**
 * A pool of connections to the deployment's database.
 * @throws DatabaseNotConfigured when there is nothing to connect to
 * @throws InvalidRuntimeMap when the map on disk is damaged
 * @example
 * const pool = createPool();
 * const db = drizzle(pool);
 */
export function createPool(options: PoolOptions = {}): Pool {
  const environment = readEnvironment();
  const {
    mapFile = environment.mapFile,
    holdTimeoutMs,
    staleness,
    maxReplicaLagMs = MAX_REPLICA_LAG_MS,
    ...config
  } = options;
  const reads = {
    maxReplicaLagMs,
    staleness:
      staleness === undefined ? undefined : stalenessMs(staleness, 'createPool({ staleness })'),
  };
  // A host names another database; with a URL beside it pg would take the URL's.
  const url = config.connectionString ?? (config.host ? undefined : environment.databaseUrl);
  if (!url && !config.host) throw new DatabaseNotConfigured();

  const isOwnDatabase = options.mapFile !== undefined || url === environment.databaseUrl;
  const map = mapFile && url && isOwnDatabase ? readRuntimeMap(mapFile) : undefined;
  const hold = {
    single: holdTimeoutMs ?? (map ? HOLD_TIMEOUT_MS : 0),
    replicated: holdTimeoutMs ?? REPLICATED_HOLD_TIMEOUT_MS,
  };
  const pool = new BanyanPool(hold, reads, {
    connectionTimeoutMillis: CONNECTION_TIMEOUT_MS,
    application_name: environment.unit,
    ...config,
    ...(map ? { max: shareOf(map, config.max) } : {}),
    ...(url ? { connectionString: map ? at(url, firstOf(map)) : url } : {}),
  });
  if (mapFile && url && map) pool.follow(mapFile, url, map, config.max);
  return pool;
}
