/**
 * The application's pool: `pg.Pool`'s interface over the database that the runtime map names.
 *
 * Holds true here:
 * - It *is* a `pg.Pool`, so Drizzle (which asks `instanceof`), Kysely and plain `pg` code work on it.
 * - Host and port come from the map, credentials and options from `DATABASE_URL`. When the map
 *   moves the database, idle connections to the old place are closed and new ones go to the new;
 *   connections in use finish what they do and are closed on release.
 * - A connection that breaks is logged, never thrown, also while the application holds it between two
 *   queries: a restart of PostgreSQL must not take the application with it.
 */
import pg from 'pg';
import { BanyanError } from '../../errors.ts';
import { readRuntimeMap, watchRuntimeMap } from '../../map/map-file.ts';
import type { Member, RuntimeMap } from '../../map/runtime-map.ts';
import { readEnvironment } from '../environment.ts';
import { log } from '../telemetry/log.ts';
import { Holding, type HoldLimits, isAway } from './holding.ts';
import { internalsOf, leaveConnections, resize, serveWaiting } from './pool-internals.ts';
import { type TransactionOptions, transaction } from './transaction.ts';

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
   * Default: 10000 for the deployment's own database, 0 for any other.
   */
  holdTimeoutMs?: number;
}

/** `pg.Pool`, following the runtime map. Made by {@link createPool}. */
export interface Pool extends pg.Pool {
  /** Whether statements to the primary wait at the moment, since it is away or the map says to hold. */
  readonly isHolding: boolean;
  /** See {@link transaction}: `fn` may run several times. */
  transaction<T>(
    fn: (client: pg.PoolClient) => Promise<T>,
    options?: TransactionOptions,
  ): Promise<T>;
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

/** A database that is replaced is back within seconds; a user waits no longer than this. */
const HOLD_TIMEOUT_MS = 10_000;
/** More would fill the memory of a server that may be one of many. */
const HELD_REQUESTS = 1_000;
const PROBE_TIMEOUT_MS = 2_000;

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
  const { mapFile = environment.mapFile, holdTimeoutMs, ...config } = options;
  // A host names another database; with a URL beside it pg would take the URL's.
  const url = config.connectionString ?? (config.host ? undefined : environment.databaseUrl);
  if (!url && !config.host) throw new DatabaseNotConfigured();

  const isOwnDatabase = options.mapFile !== undefined || url === environment.databaseUrl;
  const map = mapFile && url && isOwnDatabase ? readRuntimeMap(mapFile) : undefined;
  const hold = { timeoutMs: holdTimeoutMs ?? (map ? HOLD_TIMEOUT_MS : 0), most: HELD_REQUESTS };
  const pool = new BanyanPool(hold, {
    connectionTimeoutMillis: CONNECTION_TIMEOUT_MS,
    application_name: environment.unit,
    ...config,
    ...(map ? { max: shareOf(map, config.max) } : {}),
    ...(url ? { connectionString: atPrimary(url, map) } : {}),
  });
  if (mapFile && url && map) pool.follow(mapFile, url, map, config.max);
  return pool;
}

const pulseQueue = internalsOf(pg.Pool.prototype)._pulseQueue;

/** pg-pool's own default. */
const DEFAULT_MAX = 10;

type ConnectCallback = (
  error: Error | undefined,
  client: pg.PoolClient | undefined,
  done: (release?: Error | boolean) => void,
) => void;

class BanyanPool extends pg.Pool implements Pool {
  readonly #holding: Holding;
  #stopWatching: (() => void) | undefined;

  constructor(hold: HoldLimits, config: pg.PoolConfig) {
    super(config);
    this.#holding = new Holding(hold, () => this.#probe());
    this.on('error', error => log.warn({ err: error }, 'an idle database connection broke'));
    // pg-pool listens for errors while a client is idle. One that breaks in the application's hands,
    // between two queries of a transaction, would otherwise end the process: the next query on it
    // rejects, which is all that the application needs.
    this.on('connect', client => client.on('error', () => {}));
  }

  get isHolding(): boolean {
    return this.#holding.isHolding;
  }

  /** @param wanted connections that the application asked for; undefined when it left that open */
  follow(mapFile: string, url: string, map: RuntimeMap, wanted: number | undefined): void {
    let current = primaryOf(map);
    this.#plan(map);
    this.#stopWatching = watchRuntimeMap(
      mapFile,
      map,
      next => {
        resize(this, shareOf(next, wanted));
        const primary = primaryOf(next);
        if (primary.host !== current.host || primary.port !== current.port) {
          current = primary;
          this.options.connectionString = atPrimary(url, next);
          leaveConnections(this);
        }
        // Last, so that what was held goes where the new map says.
        this.#plan(next);
      },
      error => log.warn({ err: error }, 'the runtime map cannot be read; the last one stays'),
    );
  }

  /** `pool.query` comes by here as well; while all is well this costs one call more than pg-pool's own. */
  override connect(): Promise<pg.PoolClient>;
  override connect(callback: ConnectCallback): void;
  override connect(callback?: ConnectCallback): Promise<pg.PoolClient> | undefined {
    const held = () => this.#holding.connect(() => super.connect());
    if (!callback) return held();
    const deliver = () => {
      held().then(
        client => callback(undefined, client, client.release),
        error => callback(error, undefined, () => {}),
      );
    };
    if (this.#holding.isHolding) deliver();
    else {
      super.connect((error, client, done) => {
        if (error && isAway(error)) deliver();
        else callback(error, client, done);
      });
    }
    return undefined;
  }

  transaction<T>(
    fn: (client: pg.PoolClient) => Promise<T>,
    options?: TransactionOptions,
  ): Promise<T> {
    return transaction(this, fn, options);
  }

  /** Whether a session can be had, over a connection beside the pool's: those may all be in use. */
  async #probe(): Promise<void> {
    const client = new pg.Client({ ...this.options, connectionTimeoutMillis: PROBE_TIMEOUT_MS });
    client.on('error', () => {});
    try {
      await client.connect();
    } finally {
      await client.end().catch(() => {});
    }
  }

  /** While the map says to hold, nobody gets a connection: also who waits for one that is in use. */
  #plan({ database: { shards } }: RuntimeMap): void {
    if (this.#holding.plan(shards[0]?.hold, () => serveWaiting(this))) leaveConnections(this);
  }

  /** pg-pool's own: gives one of those who wait a connection. Its types do not know it. */
  _pulseQueue(): void {
    if (this.#holding?.isPlanned && !this.ending) return;
    pulseQueue.call(this);
  }

  override end(): Promise<void>;
  override end(callback: () => void): void;
  override end(callback?: () => void): Promise<void> | void {
    this.#stopWatching?.();
    this.#holding.stop();
    return callback ? super.end(callback) : super.end();
  }
}

/** What this server may hold, so that all of them together never take the database's last connection. */
function shareOf(map: RuntimeMap, wanted: number | undefined): number {
  const share = map.database.connectionsPerServer;
  if (share === undefined) return wanted ?? DEFAULT_MAX;
  return Math.min(share, wanted ?? share);
}

/** Rung 1 has one shard with one member. */
function primaryOf(map: RuntimeMap): Member {
  const member = map.database.shards[0]?.members[0];
  if (!member) throw new Error('a runtime map has at least one shard with one member');
  return member;
}

function atPrimary(connectionString: string, map: RuntimeMap | undefined): string {
  if (!map) return connectionString;
  const url = new URL(connectionString);
  const { host, port } = primaryOf(map);
  url.hostname = host.includes(':') ? `[${host}]` : host;
  url.port = String(port);
  return url.href;
}
