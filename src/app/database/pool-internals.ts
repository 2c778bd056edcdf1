/**
 * The parts of pg-pool that its types leave out, and what is done with them: to leave a place, to have fewer
 * connections, to send nothing for a while. Each is a few lines over pg-pool's own fields, here and nowhere
 * else, so that a new version of pg-pool has one place to break.
 */
import pg from 'pg';

/** pg-pool's own, also of a pool that has another. */
const { connect } = pg.Pool.prototype;

export type TakeCallback = (error: Error | undefined, client: pg.PoolClient | undefined) => void;

interface Pending {
  callback: TakeCallback;
  /** By `performance.now()`; of those that `take` put there. */
  until?: number;
}

export interface PoolInternals {
  _clients: pg.PoolClient[];
  _idle: {
    client: pg.PoolClient & { ref?(): void; _poolUseCount?: number };
    idleListener: (error: Error) => void;
    timeoutId?: NodeJS.Timeout;
  }[];
  _pendingQueue: Pending[];
  /** Clients that are closed, not kept, when they are released. */
  _expired: WeakSet<pg.PoolClient>;
  _isFull(): boolean;
  /** Has more than it should keep. */
  _isAboveMin(): boolean;
  _acquireClient(
    client: pg.PoolClient,
    pending: { callback: TakeCallback },
    idleListener: (error: Error) => void,
    isNew: boolean,
  ): void;
  _remove(client: pg.PoolClient): void;
  /** Gives one of those who wait a client, when there may be one. */
  _pulseQueue(): void;
}

export function internalsOf(pool: pg.Pool): PoolInternals {
  return pool as unknown as PoolInternals;
}

/** What is idle is closed now, what is in use when it is released. */
export function leaveConnections(pool: pg.Pool): void {
  const internals = internalsOf(pool);
  for (const client of internals._clients) internals._expired.add(client);
  for (const { client } of [...internals._idle]) internals._remove(client);
}

/**
 * Closes every connection at once, also those in use: what runs on them fails as with a broken connection. For
 * a server that may never answer again, so nothing waits for its goodbye.
 */
export function breakConnections(pool: pg.Pool): void {
  for (const client of [...internalsOf(pool)._clients]) breakConnection(client);
  leaveConnections(pool);
}

/**
 * As `connect`, but an idle connection is handed over at once, and who has to wait for one gets no timer of his own.
 * pg-pool itself puts everyone in the queue first, with a timer, which is a tenth of what a point read costs this
 * process.
 */
export function take(pool: pg.Pool, callback: TakeCallback): void {
  const internals = internalsOf(pool);
  const queue = internals._pendingQueue;
  const item = queue.length === 0 && !pool.ending ? internals._idle.pop() : undefined;
  if (item) {
    clearTimeout(item.timeoutId);
    item.client.ref?.();
    internals._acquireClient(item.client, { callback }, item.idleListener, false);
    return;
  }
  if (pool.ending || !internals._isFull()) {
    connect.call(pool, callback);
    return;
  }
  queue.push({
    callback,
    until: performance.now() + (pool.options.connectionTimeoutMillis || Infinity),
  });
  if (!sweeps.has(pool)) sweepLater(pool);
}

/** Pools whose queue is looked at now and then for those who have waited too long. */
const sweeps = new WeakSet<pg.Pool>();
const SWEEP_MS = 250;

function sweepLater(pool: pg.Pool): void {
  sweeps.add(pool);
  setTimeout(() => {
    const internals = internalsOf(pool);
    const now = performance.now();
    const isLate = ({ until = Infinity }: Pending) => until <= now;
    if (internals._pendingQueue.some(isLate)) {
      const late = internals._pendingQueue.filter(isLate);
      internals._pendingQueue = internals._pendingQueue.filter(pending => !isLate(pending));
      const error = new Error('timeout exceeded when trying to connect');
      for (const { callback } of late) callback(error, undefined);
    }
    if (internals._pendingQueue.length > 0) sweepLater(pool);
    else sweeps.delete(pool);
  }, SWEEP_MS).unref();
}

/**
 * Closes connections that nobody has used for `timeoutMs`, by one look at all of them now and then: pg-pool's own way
 * is a timer for each release, which costs more than the rest of it. Of a pool whose `idleTimeoutMillis` is 0.
 * @param timeoutMs 0: never; each is closed when it has passed, half of it later at the latest
 */
export function closeIdle(pool: pg.Pool, timeoutMs: number): void {
  if (timeoutMs === 0) return;
  const seen = new WeakMap<pg.PoolClient, { uses: number; since: number }>();
  const timer = setInterval(() => {
    if (pool.ending) {
      clearInterval(timer);
      return;
    }
    const internals = internalsOf(pool);
    const now = performance.now();
    for (const { client } of [...internals._idle]) {
      const uses = client._poolUseCount ?? 0;
      const before = seen.get(client);
      if (before?.uses !== uses) seen.set(client, { uses, since: now });
      else if (now - before.since >= timeoutMs && internals._isAboveMin())
        internals._remove(client);
    }
  }, timeoutMs / 2);
  timer.unref();
}

/** Closes one connection without a word. */
export function breakConnection(client: pg.ClientBase): void {
  (client as unknown as { connection?: pg.Connection }).connection?.stream.destroy();
}

/** Fewer at most: what is idle beyond it goes now, the rest when it is released. */
export function resize(pool: pg.Pool, max: number): void {
  if (max === pool.options.max) return;
  const internals = internalsOf(pool);
  pool.options.max = max;
  for (const { client } of [...internals._idle]) {
    if (internals._clients.length > max) internals._remove(client);
  }
  for (const client of internals._clients.slice(max)) internals._expired.add(client);
  serveWaiting(pool);
}

/** Gives all who wait for a connection an error in its place. */
export function turnAway(pool: pg.Pool, error: Error): void {
  for (const { callback } of internalsOf(pool)._pendingQueue.splice(0)) callback(error, undefined);
}

/** Gives all who wait a client, as far as there may be more. */
export function serveWaiting(pool: pg.Pool): void {
  const internals = internalsOf(pool);
  for (let left = internals._pendingQueue.length; left > 0; left--) {
    if (internals._idle.length === 0 && internals._isFull()) return;
    internals._pulseQueue();
  }
}
