/** Handlers and a replica that is held back: they read what their message is about. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Pool } from '../../../src/app/database/pool.ts';
import { createQueue } from '../../../src/app/queue/create-queue.ts';
import { defineJob } from '../../../src/app/queue/definitions.ts';
import type { Queue } from '../../../src/app/queue/types.ts';
import { Cluster } from '../../support/cluster.ts';
import { RoutedPools } from '../../support/routed.ts';
import { until } from '../../support/until.ts';

let cluster: Cluster;
let pool: Pool;
let queue: Queue;

beforeAll(async () => {
  cluster = await Cluster.start();
  const pools = new RoutedPools(cluster);
  await pools.prepare();
  await cluster.primary.ask('create table mails (id int primary key, text text)');
  await cluster.caughtUp();
  await pools.publish();
  pool = await pools.reading();
  queue = createQueue({ pool });
});
afterAll(async () => {
  await queue?.close(1_000);
  await cluster?.remove();
});

const mail = defineJob({ name: 'mail' });

test('a handler reads on a replica, and never what was before its message', async () => {
  const read: unknown[] = [];
  queue.work(mail, async job => {
    const { rows } = await pool.query<{ text: string; at: string }>(
      'select text, whereami() as at from mails where id = $1',
      [job.payload],
    );
    read.push(rows[0]?.text, rows[0]?.at);
  });
  await queue.ready();
  const publish = (id: number) =>
    pool.transaction(async tx => {
      await tx.query('insert into mails values ($1, $2)', [id, `text ${id}`]);
      await queue.publish(mail, id);
    });
  const [replica] = cluster.standbys;
  await replica!.pauseReplay();
  try {
    await publish(1);
    await until(() => read.length === 2, { what: 'the message is handled' });
    expect(read).toEqual(['text 1', cluster.primary.name]);
  } finally {
    await replica!.resumeReplay();
  }
  await until(
    async () => {
      await cluster.caughtUp();
      const id = read.length;
      await publish(id);
      await until(() => read.length === id + 2, { what: 'the message is handled' });
      expect(read[id]).toBe(`text ${id}`);
      return read.at(-1) === replica!.name;
    },
    { what: 'a handler reads on the replica' },
  );
});
