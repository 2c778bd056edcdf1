/**
 * Money moves between two replicated shards while the primary of each is lost and its standby takes over: the
 * transactions are held, none is torn, none that was acknowledged is lost.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { OutcomeUnknown } from '../../../../src/app/database/errors.ts';
import type { Pool } from '../../../../src/app/database/pool.ts';
import { decisionTable } from '../../../../src/app/database/shards/two-phase/decisions.ts';
import { log } from '../../../../src/app/telemetry/log.ts';
import { Cluster, type ClusterMember } from '../../../support/cluster.ts';
import { HintedPools } from '../../../support/hinted-shards.ts';
import { until } from '../../../support/until.ts';

log.level = 'silent';

const SESSIONS = 6;
const ACCOUNTS = 50;
const BALANCE = 1_000;

let clusters: Cluster[];
let hinted: HintedPools;
let pool: Pool;

beforeAll(async () => {
  clusters = await Promise.all([0, 1].map(() => Cluster.start({ standbys: 1, synchronous: true })));
  // All with one password, since a deployment has one.
  for (const { primary } of clusters) {
    await primary.ask("create role app superuser login password 'app'");
    await primary.ask(decisionTable());
    await primary.ask(`create function whereami() returns text language sql stable
      as $$ select current_setting('cluster_name') $$`);
    await primary.ask(`create table accounts (id int primary key, balance int not null);
      create table entries (transfer text not null, amount int not null);
      insert into accounts select i, ${BALANCE} from generate_series(0, ${ACCOUNTS - 1}) i`);
  }
  await Promise.all(clusters.map(cluster => cluster.caughtUp()));
  const url = new URL(clusters[0]!.primary.url());
  url.username = 'app';
  url.password = 'app';
  hinted = new HintedPools(url.href, () => clusters.map(({ members }) => members));
  await hinted.publish();
  pool = hinted.pool({}, { holdTimeoutMs: 40_000, deadlockTimeoutMs: 300 });
});
afterAll(async () => {
  await hinted?.remove();
  await Promise.all((clusters ?? []).map(cluster => cluster.remove()));
});

const any = (most: number) => Math.floor(Math.random() * most);

test('a read may say how old its answer may be', async () => {
  const standbys = clusters.map(({ members }) => members[1]!);
  const ask = (staleness?: string) =>
    pool.query({
      text: '/* all */ select whereami() as name',
      ...(staleness ? { staleness } : {}),
    });
  await until(async () => (await ask()).rows.every(({ name }) => name === 'member-1'), {
    what: 'reads reach the replicas',
  });
  await Promise.all(standbys.map(standby => standby.pauseReplay()));
  const moved = '/* all */ update accounts set balance = balance + 0 where id = 0';
  await pool.query(moved);
  expect((await ask()).rows.map(({ name }) => name)).toEqual(['member-0', 'member-0']);
  expect((await ask('60s')).rows.map(({ name }) => name)).toEqual(['member-1', 'member-1']);
  await expect(ask('soon')).rejects.toMatchObject({ code: 'INVALID_STALENESS' });
  await Promise.all(standbys.map(standby => standby.resumeReplay()));
});

test('each primary is lost under load', { timeout: 240_000 }, async () => {
  const ending = new AbortController();
  const kept = new Set<string>();
  const unknown = new Set<string>();
  const failures: unknown[] = [];
  /** What a session sees after its own transfers: never less than it has done. */
  const stale: string[] = [];
  const session = async (number: number) => {
    for (let i = 0; !ending.signal.aborted; i++) {
      const id = `${number}-${i}`;
      const from = any(2);
      try {
        await pool.transaction(
          async client => {
            for (const [shard, by] of [
              [from, -1],
              [1 - from, 1],
            ] as const) {
              await client.query(
                `/* ${shard} */ update accounts set balance = balance + $1 where id = $2`,
                [by, any(ACCOUNTS)],
              );
              await client.query(`/* ${shard} */ insert into entries values ($1, $2)`, [id, by]);
            }
          },
          { timeoutMs: 60_000, retries: 100 },
        );
        kept.add(id);
        const { rowCount } = await pool.query('/* all */ select from entries where transfer = $1', [
          id,
        ]);
        if (rowCount !== 2) stale.push(id);
      } catch (error) {
        if (error instanceof OutcomeUnknown) unknown.add(id);
        else failures.push(error);
        await delay(20);
      }
    }
  };
  const running = Promise.all(Array.from({ length: SESSIONS }, (_, i) => session(i)));
  const works = async (count = 40) => {
    const before = kept.size;
    await until(() => kept.size >= before + count, {
      what: 'transfers are made',
      timeoutMs: 60_000,
    });
  };
  const primaries: ClusterMember[] = [];
  await works();
  for (const cluster of clusters) {
    await cluster.primary.kill();
    const standby = cluster.members[1]!;
    // Alone from now on.
    await standby.ask("alter system set synchronous_standby_names = ''");
    await standby.ask('select pg_reload_conf()');
    await standby.promote();
    primaries.push(standby);
    await works();
  }
  ending.abort();
  await running;
  expect(failures).toEqual([]);
  expect(stale).toEqual([]);

  const ask = (text: string) =>
    Promise.all(primaries.map(member => member.ask<Record<string, never>>(text)));
  await until(async () => (await ask('select gid from pg_prepared_xacts')).flat().length === 0, {
    what: 'nothing is left prepared',
    timeoutMs: 40_000,
  });
  const sums = (await ask('select sum(balance)::int as sum from accounts')).flat();
  expect(sums.reduce((total, { sum }) => total + Number(sum), 0)).toBe(2 * ACCOUNTS * BALANCE);
  const entries = (await ask('select transfer, amount from entries')).map(
    rows => new Set(rows.map(({ transfer }) => String(transfer))),
  );
  const [one, other] = entries as [Set<string>, Set<string>];
  expect([...one].sort()).toEqual([...other].sort());
  expect([...kept].filter(id => !one.has(id))).toEqual([]);
  expect([...one].filter(id => !kept.has(id) && !unknown.has(id))).toEqual([]);
  console.log(`kept ${kept.size}, unknown ${unknown.size}`);
});
