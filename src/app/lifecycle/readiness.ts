/**
 * What `/readyz` answers: whether this process should get requests.
 *
 * It tells the truth: not while starting, not while draining, not when a check fails. A check that
 * does not answer in time has failed. `/healthz` is another question, whether the process itself
 * works; it has no checks, since a restart of the process mends no database.
 */
import type pg from 'pg';

/** Resolves when all is well; throws, with the reason, when it is not. */
export type ReadinessCheck = () => Promise<unknown>;

/** A probe comes about every second; a check that takes longer is no good answer. */
const CHECK_TIMEOUT_MS = 2_000;

/** A query that succeeded this lately shows the database as well as a new one would. */
const FRESH_MS = 1_000;

export type Phase = 'starting' | 'serving' | 'draining';

export interface ReadinessReport {
  ready: boolean;
  phase: Phase;
  /** For each check `ok`, or why not. */
  checks: Record<string, string>;
}

export async function readinessReport(
  phase: Phase,
  checks: Record<string, ReadinessCheck>,
): Promise<ReadinessReport> {
  const results = await Promise.all(
    Object.entries(checks).map(async ([name, check]) => [name, await run(check)] as const),
  );
  const ready = phase === 'serving' && results.every(([, result]) => result === 'ok');
  return { ready, phase, checks: Object.fromEntries(results) };
}

async function run(check: ReadinessCheck): Promise<string> {
  const { promise: late, resolve } = Promise.withResolvers<string>();
  const timer = setTimeout(
    () => resolve(`no answer within ${CHECK_TIMEOUT_MS / 1_000} s`),
    CHECK_TIMEOUT_MS,
  );
  try {
    return await Promise.race([late, check().then(() => 'ok')]);
  } catch (error) {
    return (error as Error).message || String(error);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Whether the database answers, without a connection of its own and without queueing when it is plain:
 * a pool whose clients are all busy has no room for a `select 1`, but each query that ends well is
 * the same answer. So a busy server does not count as broken.
 */
export function databaseCheck(pool: pg.Pool): ReadinessCheck {
  let lastSuccess = Number.NEGATIVE_INFINITY;
  const isBroken = () => {
    lastSuccess = Number.NEGATIVE_INFINITY;
  };
  const broken = new WeakSet<pg.PoolClient>();
  pool.on('connect', client => {
    client.on('error', () => {
      broken.add(client);
      isBroken();
    });
  });
  pool.on('release', (error, client) => {
    if (broken.has(client)) return;
    if (!error) lastSuccess = performance.now();
    else if (isConnectionError(error)) isBroken();
  });
  pool.on('error', isBroken);

  // However many ask at a time, the database is asked once: anyone can ask for `/readyz`.
  let asking: Promise<unknown> | undefined;
  return async () => {
    if (performance.now() - lastSuccess < FRESH_MS) return;
    asking ??= pool.query('select 1').finally(() => {
      asking = undefined;
    });
    await asking;
  };
}

/** An error without an SQLSTATE, or with one of class 08 or 57P, is about the connection. */
function isConnectionError(error: Error | boolean): boolean {
  const code = (error as { code?: unknown }).code;
  return typeof code !== 'string' || !/^[0-9A-Z]{5}$/.test(code) || /^(08|57P)/.test(code);
}
