/**
 * The databases that the queue lies in: one behind a plain pool, or each shard of a pool over several. What the room needs of
 * a pool's insides is here and nowhere else.
 */
import pg from 'pg';
import { BanyanPool } from '../../database/banyan-pool.ts';
import { isBroken, wasNotSent } from '../../database/breakage.ts';
import { OutcomeUnknown } from '../../database/errors.ts';
import { hashKey } from '../../database/shards/hash.ts';
import { ShardedPool } from '../../database/shards/sharded-pool.ts';
import { STATEMENT_TIMEOUT_MS } from './link.ts';

export interface Place {
  readonly id: string;
  /** A connection of its own, to the primary. */
  open(): Promise<pg.Client>;
  /** A statement over the pool, at the primary. @throws OutcomeUnknown when its answer was lost */
  query<R extends pg.QueryResultRow>(config: pg.QueryConfig): Promise<pg.QueryResult<R>>;
}

/** In the order of the map; another list after a change of it. The same object for the same place. */
export function placesOf(pool: pg.Pool): () => readonly Place[] {
  if (!(pool instanceof ShardedPool)) {
    const places = [placeOf('main', pool)];
    return () => places;
  }
  const known = new WeakMap<pg.Pool, Place>();
  return () =>
    pool.shards.all.map(shard => {
      const place = known.get(shard.pool) ?? placeOf(shard.id, shard.pool);
      known.set(shard.pool, place);
      return place;
    });
}

function placeOf(id: string, pool: pg.Pool): Place {
  return {
    id,
    open: () => (pool instanceof BanyanPool ? pool.openKept(STATEMENT_TIMEOUT_MS) : open(pool)),
    query: config => atPrimary(pool, config),
  };
}

async function open(pool: pg.Pool): Promise<pg.Client> {
  const client = new pg.Client({ ...configOf(pool), connectionTimeoutMillis: 5_000 });
  client.on('error', () => {});
  try {
    await client.connect();
    return client;
  } catch (error) {
    client.end().catch(() => {});
    throw error;
  }
}

/** pg-pool hides the password from enumeration. */
function configOf(pool: pg.Pool): pg.ClientConfig {
  const { options } = pool;
  return { ...options, ...(options.password === undefined ? {} : { password: options.password }) };
}

async function atPrimary<R extends pg.QueryResultRow>(
  pool: pg.Pool,
  config: pg.QueryConfig,
): Promise<pg.QueryResult<R>> {
  const client = await connect(pool);
  let error: unknown;
  try {
    return await client.query<R>(config);
  } catch (thrown) {
    error = thrown;
    if (isBroken(thrown) && !wasNotSent(thrown)) throw new OutcomeUnknown('a message', thrown);
    throw thrown;
  } finally {
    client.release(error !== undefined && (isBroken(error) || wasNotSent(error)));
  }
}

function connect(pool: pg.Pool): Promise<pg.PoolClient> {
  if (!(pool instanceof BanyanPool)) return pool.connect();
  const { promise, resolve, reject } = Promise.withResolvers<pg.PoolClient>();
  pool.connectPrimary(
    (error, client) => (client ? resolve(client) : reject(error)),
    performance.now(),
  );
  return promise;
}

/** Which of several places a text belongs to: the same in every process with the same map. */
export function placeByHash(places: readonly Place[], text: string): Place {
  if (places.length === 1) return places[0]!;
  const hash = hashKey('text', text);
  return places[(hash ? hash.low >>> 0 : 0) % places.length]!;
}
