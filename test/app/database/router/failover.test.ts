/** Members that are killed, frozen, promoted: what is held, what goes on, what is told. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Pool } from '../../../../src/app/database/pool.ts';
import { log } from '../../../../src/app/telemetry/log.ts';
import { Cluster } from '../../../support/cluster.ts';
import { RoutedPools, routerOf, serverOf } from '../../../support/routed.ts';
import { until } from '../../../support/until.ts';

// The servers break connections on purpose.
log.level = 'silent';

let cluster: Cluster;
let pools: RoutedPools;
let pool: Pool;

beforeEach(async () => {
  cluster = await Cluster.start({ standbys: 2, synchronous: true });
  pools = new RoutedPools(cluster);
  await pools.publish();
  await cluster.primary.ask('create table counted (id int primary key)');
  await pools.prepare();
  pool = await pools.reading({ holdTimeoutMs: 30_000 });
});
afterEach(async () => {
  await cluster?.remove();
});

/** Readers and writers who never stop, and what became of each. */
class Traffic {
  readonly failures: unknown[] = [];
  readonly written = new Set<number>();
  readonly unknown = new Set<number>();
  reads = 0;
  #next = 0;
  #isOver = false;
  readonly #users: Promise<void>[];

  constructor(of: Pool) {
    this.#users = [
      ...Array.from({ length: 4 }, () => this.#read(of)),
      ...Array.from({ length: 2 }, () => this.#write(of)),
    ];
  }

  async #read(of: Pool): Promise<void> {
    while (!this.#isOver) {
      try {
        await serverOf(of);
        this.reads++;
      } catch (error) {
        this.#fail(error);
      }
    }
  }

  /** One is too many already: who fails at once must not fail for ever. */
  #fail(error: unknown): void {
    this.failures.push(error);
    this.#isOver = true;
  }

  async #write(of: Pool): Promise<void> {
    while (!this.#isOver) {
      const id = this.#next++;
      try {
        await of.query('insert into counted values ($1)', [id]);
        this.written.add(id);
      } catch (error) {
        if ((error as { code?: string }).code === 'OUTCOME_UNKNOWN') this.unknown.add(id);
        else this.#fail(error);
      }
    }
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#users);
  }
}

/** More of both than now. */
async function goesOn(traffic: Traffic): Promise<void> {
  const { reads } = traffic;
  const written = traffic.written.size;
  await until(
    () =>
      traffic.failures.length > 0 ||
      (traffic.reads > reads + 20 && traffic.written.size > written + 5),
    { what: 'reads and writes go on', timeoutMs: 60_000 },
  );
  expect(traffic.failures).toEqual([]);
}

async function expectAllKept(traffic: Traffic): Promise<void> {
  const { rows } = await pool.query<{ id: number }>('select id from counted');
  const kept = new Set(rows.map(({ id }) => id));
  expect([...traffic.written].filter(id => !kept.has(id))).toEqual([]);
  for (const id of kept) expect(traffic.written.has(id) || traffic.unknown.has(id)).toBe(true);
}

test.each(['kill', 'freeze'] as const)('a replica that is gone (%s) fails no read', async how => {
  const traffic = new Traffic(pool);
  await goesOn(traffic);
  await cluster.standbys[0]![how]();
  // A frozen one keeps what was sent to it until it is taken for frozen.
  await goesOn(traffic);
  await goesOn(traffic);
  if (how === 'freeze') await cluster.standbys[0]!.thaw();
  await traffic.stop();
  expect(traffic.failures).toEqual([]);
  await expectAllKept(traffic);
});

test('the primary is killed and a standby promoted: writes are held and go on, reads go on all through', async () => {
  const traffic = new Traffic(pool);
  await goesOn(traffic);
  const epoch = await pools.publish();
  await cluster.primary.kill();
  const { reads } = traffic;
  // Nobody has been promoted yet.
  await until(() => traffic.reads > reads + 50 || traffic.failures.length > 0, {
    what: 'reads go on without a primary',
  });
  expect(traffic.failures).toEqual([]);
  expect(pool.isHolding).toBe(true);
  const [first, second] = await Promise.all(
    cluster.standbys.map(async standby => {
      const [row] = await standby.ask<{ lsn: string }>(
        `select (pg_last_wal_receive_lsn() - '0/0')::text as lsn`,
      );
      return { standby, lsn: BigInt(row!.lsn) };
    }),
  );
  const successor = first!.lsn >= second!.lsn ? first! : second!;
  // Alone it would wait for a standby.
  await successor.standby.ask(`alter system set synchronous_standby_names = ''`);
  await successor.standby.ask('select pg_reload_conf()');
  await successor.standby.promote();
  await goesOn(traffic);
  await traffic.stop();
  expect(traffic.failures).toEqual([]);
  expect(routerOf(pool).monitor.primary?.address.port).toBe(successor.standby.port);
  expect((await pools.publish()).epoch).toBe(epoch.epoch);
  await expectAllKept(traffic);
});

test('a frozen primary hangs nothing for ever once another is promoted', async () => {
  const transaction = await pool.connect();
  await transaction.query('begin');
  await transaction.query('insert into counted values (-1)');
  const traffic = new Traffic(pool);
  await goesOn(traffic);
  await cluster.primary.freeze();
  // Sent to the frozen one, or held: either is told rightly.
  const hanging = pool
    .query('insert into counted values (-2)')
    .catch(error => expect(error.code).toBe('OUTCOME_UNKNOWN'));
  const stuck = expect(transaction.query('insert into counted values (-3)')).rejects.toMatchObject({
    code: 'TRANSACTION_BROKEN',
    safeToRetry: true,
  });
  const successor = cluster.standbys[0]!;
  await successor.ask(`alter system set synchronous_standby_names = ''`);
  await successor.ask('select pg_reload_conf()');
  await successor.promote();
  await goesOn(traffic);
  await traffic.stop();
  await stuck;
  // Rolled back already, and at once.
  expect(await transaction.query('rollback')).toMatchObject({ command: 'ROLLBACK' });
  expect(await transaction.query('select count(*) from counted')).toBeDefined();
  transaction.release();
  await hanging;
  expect(traffic.failures).toEqual([]);
});

describe('a transaction whose connection breaks', () => {
  const terminate = (pid: number) => cluster.primary.ask(`select pg_terminate_backend(${pid})`);

  test('before COMMIT it may be repeated; an autocommitted write that was cut off is of unknown outcome', async () => {
    const client = await pool.connect();
    await client.query('begin');
    const { rows } = await client.query('select pg_backend_pid() as pid');
    await client.query('insert into counted values (1)');
    await terminate(rows[0].pid);
    await expect(client.query('commit')).rejects.toMatchObject({
      code: 'TRANSACTION_BROKEN',
      safeToRetry: true,
    });
    await expect(client.query('insert into counted values (2)')).rejects.toMatchObject({
      code: 'TRANSACTION_BROKEN',
    });
    await client.query('rollback');
    await client.query('insert into counted values (3)');
    client.release();
    expect((await pool.query('select id from counted order by id')).rows).toEqual([{ id: 3 }]);
  });

  test('a write that is cut off in the middle is not repeated, and the error says so', async () => {
    const writing = pool.query('insert into counted select 7 from pg_sleep(60)');
    const refused = expect(writing).rejects.toMatchObject({
      code: 'OUTCOME_UNKNOWN',
      safeToRetry: false,
      cause: { code: '57P01' },
    });
    await until(async () => {
      const [row] = await cluster.primary.ask<{ pid: number }>(
        `select pid from pg_stat_activity where query like '%pg_sleep(60)%' and pid <> pg_backend_pid()`,
      );
      return row && terminate(row.pid).then(() => true);
    });
    await refused;
    expect((await pool.query('select from counted')).rowCount).toBe(0);
  });
});

test('a planned switch-over: writes wait while the map says so, no request fails, the new primary has them', async () => {
  const traffic = new Traffic(pool);
  await goesOn(traffic);
  const { reads } = traffic;
  const members = cluster.members.toReversed();
  await pools.publish(members, { id: 'switch', forMs: 30_000 });
  const sessions = async () =>
    (
      await cluster.primary.ask(
        `select pid from pg_stat_activity where application_name = 'app' and pid <> pg_backend_pid()`,
      )
    ).length;
  await until(async () => (await sessions()) === 0, { what: 'every connection has gone' });
  await until(() => traffic.reads > reads + 50, { what: 'reads go on' });
  await cluster.primary.stop();
  const successor = cluster.standbys[1]!;
  await successor.ask(`alter system set synchronous_standby_names = ''`);
  await successor.ask('select pg_reload_conf()');
  await successor.promote();
  await pools.publish(members);
  await goesOn(traffic);
  await traffic.stop();
  expect(traffic.failures).toEqual([]);
  expect(traffic.unknown.size).toBe(0);
  await expectAllKept(traffic);
});
