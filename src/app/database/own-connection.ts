/**
 * A connection beside the pool's, to whoever is the primary at the moment: for questions that must not wait for a
 * connection in use, which may be waiting for their answer.
 */
import pg from 'pg';
import { isAway } from './holding.ts';
import type { Monitor } from './members/monitor.ts';

/** A question takes a millisecond; a server that is asked this long does not answer. */
const TIMEOUT_MS = 2_000;

/**
 * @param monitor of a pool with replicas: is told when nobody answers, and knows a primary that is none any more
 * @param queryTimeoutMs of each query over it. Default: 2000
 * @throws what connecting throws; 57P03 when the server has been demoted
 */
export async function openOwnConnection(
  config: pg.ClientConfig,
  monitor: Monitor | undefined,
  queryTimeoutMs = TIMEOUT_MS,
): Promise<pg.Client> {
  const client = new pg.Client({
    ...config,
    connectionTimeoutMillis: TIMEOUT_MS,
    query_timeout: queryTimeoutMs,
  });
  client.on('error', () => {});
  try {
    await client.connect();
    // Who serves says so itself: a server that has just been demoted takes sessions as well.
    if (monitor && (await isStandby(client))) {
      throw Object.assign(new Error('the server is a standby'), { code: '57P03' });
    }
    return client;
  } catch (error) {
    if (isAway(error)) monitor?.suspect();
    client.end().catch(() => {});
    throw error;
  }
}

async function isStandby(client: pg.Client): Promise<boolean> {
  const { rows } = await client.query<{ standby: string }>(
    'select pg_is_in_recovery()::text as standby',
  );
  return rows[0]?.standby === 'true';
}
