/** A cancellation that comes too early is not lost: the statement is cancelled all the same. */
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { cancelOn } from '../../../src/app/database/cancel-request.ts';
import { TestPostgres } from '../../support/postgres.ts';

let postgres: TestPostgres;
let pool: pg.Pool;
beforeAll(async () => {
  postgres = await TestPostgres.start();
  pool = await postgres.pool({ max: 1 });
});
afterAll(() => postgres.remove());

test('before the server has begun with the statement, and the connection is used on', async () => {
  const client = await pool.connect();
  const signal = new AbortController();
  const stop = cancelOn(signal.signal, client);
  // The server has nothing to cancel yet, and forgets it.
  signal.abort();
  await delay(20);
  await expect(client.query('select pg_sleep(60)')).rejects.toMatchObject({ code: '57014' });
  await stop();
  expect((await client.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
  client.release();
}, 30_000);
