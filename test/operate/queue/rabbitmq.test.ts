/**
 * From PostgreSQL to RabbitMQ, to a cluster of three, through the loss of a node, and all the way back, with the real command, while
 * messages are published and done: none is lost, none is done twice.
 */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { configure } from '../../support/balanced-app.ts';
import { type Site, siteOf } from '../../support/deployment.ts';
import { until } from '../../support/until.ts';
import { WORKED_APP } from '../../support/worked-app.ts';

let site: Site;
beforeAll(async () => {
  site = await siteOf(WORKED_APP);
  await configure(site, { workers: { servers: 1 } });
  await site.up();
}, 120_000);
afterAll(() => site.remove());

const names = async () =>
  (await site.status()).units
    .filter(({ tier, phase }) => tier === 'queue' && phase === 'ready')
    .map(({ name }) => name)
    .sort();

test('one node, three, one lost, one again, none: every message that was acknowledged has its effect once', async () => {
  const acknowledged: number[] = [];
  let next = 0;
  let isOver = false;
  const pool = site.pool({ max: 1 });
  const done = async () => {
    const { rows } = await pool.query('select count(*)::int as count from effects');
    return rows[0].count as number;
  };
  const publishing = (async () => {
    while (!isOver) {
      // Faster than they are done they would never be done.
      if (next % 25 === 0) await until(async () => acknowledged.length - (await done()) < 100);
      const n = next++;
      const answer = await fetch(site.address, { method: 'POST', body: JSON.stringify({ n }) });
      if (answer.status === 200) acknowledged.push(n);
    }
  })();
  const more = async (count: number) => {
    const from = acknowledged.length;
    await until(async () => (acknowledged.length >= from + count ? true : undefined), {
      what: `${count} more are acknowledged`,
      timeoutMs: 60_000,
    });
  };
  await more(20);
  const scaled = await site.ok('scale', 'queue=1');
  expect(scaled.output).toContain('queue: in PostgreSQL → one RabbitMQ');
  expect(await names()).toEqual(['epmd-1', 'rabbitmq-1']);
  await more(50);

  await site.ok('scale', 'queue=3');
  expect(await names()).toEqual(['epmd-1', 'rabbitmq-1', 'rabbitmq-2', 'rabbitmq-3']);
  const { queue } = await site.status();
  expect(queue).toHaveLength(3);
  expect(queue!.every(({ alarm, usedMb }) => alarm === undefined && usedMb > 0)).toBe(true);
  await more(50);

  process.kill(await site.pidOf('rabbitmq-1'), 'SIGKILL');
  await more(50);
  await until(async () => ((await names()).length === 4 ? true : undefined), {
    what: 'it is back',
    timeoutMs: 120_000,
  });

  await site.ok('scale', 'queue=1');
  expect(await names()).toEqual(['epmd-1', 'rabbitmq-1']);
  await more(20);
  await site.ok('scale', 'queue=0');
  expect(await names()).toEqual([]);
  expect(JSON.parse(await readFile(site.paths.map, 'utf8')).queue).toBeUndefined();
  expect(existsSync(`${site.paths.rabbitmq}/rabbitmq-1`)).toBe(false);
  await more(20);
  isOver = true;
  await publishing;

  const counts = async () =>
    new Map(
      (await pool.query('select n, count(*)::int as times from effects group by n')).rows.map(
        ({ n, times }): [number, number] => [n, times],
      ),
    );
  await until(
    async () => {
      const found = await counts();
      return acknowledged.every(n => found.has(n)) ? true : undefined;
    },
    { what: 'each has its effect', timeoutMs: 60_000 },
  );
  expect([...(await counts())].filter(([, times]) => times !== 1)).toEqual([]);
}, 580_000);
