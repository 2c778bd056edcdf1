/** What is told of the log when commits wait for a standby, and when that takes over. */
import { afterEach, expect, test } from 'vitest';
import type { ChangeEvent } from '../../../src/app/changes/change.ts';
import { ChangeReader } from '../../../src/app/changes/reader.ts';
import { Cluster } from '../../support/cluster.ts';
import { until } from '../../support/until.ts';

let cluster: Cluster | undefined;
let reader: ChangeReader | undefined;
afterEach(async () => {
  reader?.close();
  await cluster?.remove();
});

/** A primary and its synchronous standby, and what a reader of the two tells. */
async function start() {
  cluster = await Cluster.start({ standbys: 1, synchronous: true });
  await cluster.primary.ask('create table users (id int primary key)');
  const events: ChangeEvent[] = [];
  const own = new ChangeReader({
    members: () => cluster!.members,
    connection: { connectionString: cluster.primary.url() },
    slot: 'changes',
    publication: { name: 'changes', tables: ['public.users'] },
  });
  reader = own;
  void (async () => {
    for await (const event of own.events()) {
      events.push(event);
      await own.applied(event);
    }
  })();
  await until(() => own.progress.state === 'reading', { what: 'the reader reads' });
  return {
    primary: cluster.primary,
    standby: cluster.standbys[0]!,
    reader: own,
    told: () =>
      events.flatMap(event =>
        event.kind === 'gap' ? event.reason : event.changes.map(({ after }) => after!.id),
      ),
  };
}

test('a commit that nobody sees yet is not told, though it is in the log', async () => {
  const { primary, standby, reader: own, told } = await start();
  await primary.ask('insert into users values (1)');
  await until(() => told().includes('1'));
  await standby.freeze();
  const waiting = primary.ask('insert into users values (2)');
  await until(
    async () =>
      (await primary.ask(`select from pg_stat_activity where wait_event = 'SyncRep'`)).length > 0,
    { what: 'the commit waits for the standby' },
  );
  const [end] = await primary.ask<{ lsn: string }>(
    `select (pg_current_wal_flush_lsn() - '0/0')::text as lsn`,
  );
  await until(() => (own.progress.serverLsn ?? 0n) >= BigInt(end!.lsn), {
    what: 'the server has read its log to the end',
  });
  expect(told()).toEqual(['first', '1']);
  await standby.thaw();
  await waiting;
  await until(() => told().includes('2'));
});

test('a standby without the slot takes over: a gap is told, and all that comes after it', async () => {
  const { primary, standby, reader: own, told } = await start();
  await primary.ask('insert into users values (1)');
  await until(() => told().includes('1'));
  await primary.kill();
  await standby.ask(`alter system set synchronous_standby_names = ''`);
  await standby.promote();
  await until(() => told().includes('vanished'));
  await until(() => own.progress.state === 'reading');
  await standby.ask('insert into users values (2)');
  await until(() => told().includes('2'));
  expect(told()).toEqual(['first', '1', 'vanished', '2']);
});

test('a slot of the same name that was made after the standby took over is no continuation', async () => {
  const { primary, standby, reader: own, told } = await start();
  await primary.ask('insert into users values (1)');
  await until(() => told().includes('1'));
  own.close();
  await primary.kill();
  await standby.ask(`alter system set synchronous_standby_names = ''`);
  await standby.promote();
  await standby.ask('insert into users values (2)');
  // As Patroni does.
  await standby.ask(`select pg_create_logical_replication_slot('changes', 'pgoutput')`);
  const next = new ChangeReader({
    members: () => cluster!.members,
    connection: { connectionString: primary.url() },
    slot: 'changes',
    publication: { name: 'changes', tables: ['public.users'] },
  });
  reader = next;
  for await (const event of next.events()) {
    expect(event).toMatchObject({ kind: 'gap', reason: 'vanished' });
    break;
  }
});
