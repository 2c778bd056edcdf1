/** What goes on around statements over shards: one fails and the others are cancelled, the map changes, migrations. */
import { rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { migrate } from '../../../../src/app/database/migrate.ts';
import { hashExpression } from '../../../../src/app/database/shards/hash.ts';
import { evenRanges, Ranges } from '../../../../src/app/database/shards/ranges.ts';
import type { ShardedPool } from '../../../../src/app/database/shards/sharded-pool.ts';
import { log } from '../../../../src/app/telemetry/log.ts';
import { publishRuntimeMap, readRuntimeMap } from '../../../../src/map/map-file.ts';
import { CreatedShards } from '../../../support/created-shards.ts';
import { temporaryFolder } from '../../../support/deployment.ts';
import { until } from '../../../support/until.ts';

log.level = 'silent';

const SHARDS = 3;
const SCHEMA = `
  create table users (id bigint primary key, name text);
  create function slow(x bigint) returns boolean language plpgsql stable as
    'begin perform pg_sleep(600); return x = 0; end'`;

let shards: CreatedShards;
const ranges = new Ranges(evenRanges(SHARDS));
const idsOf = (shard: number) =>
  Array.from({ length: 200 }, (_, i) => i + 1).filter(
    id => ranges.shardOfKey('int8', id) === shard,
  );

beforeAll(async () => {
  shards = await CreatedShards.start(SHARDS, SCHEMA, {
    tables: { 'public.users': { kind: 'sharded', key: 'id' } },
  });
});
afterAll(() => shards?.remove());
afterEach(() => shards.pool.query('delete from users'));

describe('when one shard fails', () => {
  const [bad] = idsOf(1) as [number];
  // Only shard s1 has the row that fails; the others would sleep for ten minutes.
  const text = `where case when id = ${bad} then 1 / (id - ${bad}) = 0 else slow(id) end`;

  test.each([
    ['a query', `select id from users ${text}`],
    ['groups', `select name, count(*) from users ${text} group by name`],
    ['a write', `update users set name = 'x' ${text}`],
  ])('%s is cancelled on the others, and the error names the shard', async (_what, statement) => {
    await shards.pool.query(
      `insert into users (id) values (${[bad, idsOf(0)[0], idsOf(2)[0]].join('), (')})`,
    );
    await expect(shards.pool.query(statement)).rejects.toMatchObject({
      code: '22012',
      shard: 's1',
    });
    await shards.withClient(async client => {
      await client.query('begin');
      await expect(client.query(statement)).rejects.toMatchObject({ code: '22012', shard: 's1' });
      expect((await client.query('rollback')).command).toBe('ROLLBACK');
      expect((await client.query('select count(*)::int as count from users')).rows).toEqual([
        { count: 3 },
      ]);
    });
    await until(async () => {
      const active = await shards.servers.everywhere(
        "select 1 from pg_stat_activity where state = 'active' and query like '%slow(%' and pid <> pg_backend_pid()",
      );
      return active.every(({ rowCount }) => rowCount === 0);
    });
  });
});

describe('a write by an old map', () => {
  let turned = 0;

  /** The shards own each other's ranges; the map says so a moment later. */
  async function turn(): Promise<() => Promise<unknown>> {
    turned++;
    const { epoch: _epoch, format: _format, ...map } = readRuntimeMap(shards.maps.mapFile);
    const next = map.database.shards.map((shard, i, all) => ({
      ...shard,
      range: all[(i + 1) % all.length]!.range!,
    }));
    for (const [i, { range }] of next.entries()) {
      await shards.servers.pools[i]!.query(`alter table users drop constraint banyan_shard_guard,
        add constraint banyan_shard_guard check (${hashExpression('int8', 'id')} between ${range.from} and ${range.to})`);
    }
    const publish = { ...map, database: { ...map.database, shards: next } };
    return () => publishRuntimeMap(shards.maps.mapFile, publish as never);
  }

  const where = async () => {
    const found = await shards.servers.everywhere('select id::int from users order by id');
    return found.map(({ rows }) => rows.map(({ id }) => id));
  };
  const expected = (ids: number[]) =>
    Array.from({ length: SHARDS }, (_, shard) =>
      ids.filter(
        id => (ranges.shardOfKey('int8', id)! + SHARDS * turned - turned) % SHARDS === shard,
      ),
    );

  test('is done by the new one', async () => {
    const insert = 'insert into users (id) values ($1)';
    await shards.pool.query(insert, [1]);
    await shards.pool.query('delete from users');
    for (const write of [
      () => shards.pool.query(insert, [1]),
      () => shards.pool.query('insert into users (id) values (2), (3), (4), (5), (6)'),
      () => shards.withClient(client => client.query(insert, [7])),
    ]) {
      const publish = await turn();
      await Promise.all([write(), publish()]);
      expect(await where()).toEqual(expected((await where()).flat().sort((a, b) => a - b)));
      expect((await where()).flat()).not.toEqual([]);
      await Promise.all(shards.servers.pools.map(pool => pool.query('delete from users')));
    }
  });

  test('is repeated with all of its transaction', async () => {
    const publish = await turn();
    let attempts = 0;
    await shards.pool.transaction(async client => {
      attempts++;
      await Promise.all([
        client.query('insert into users (id) values (1), (2), (3), (4)'),
        attempts === 1 ? publish() : undefined,
      ]);
    });
    expect(attempts).toBe(2);
    expect(await where()).toEqual(expected([1, 2, 3, 4]));
    expect(await shards.servers.prepared()).toEqual([[], [], []]);
  });

  test('in a transaction that has begun by it breaks that, and pool.transaction repeats it', async () => {
    const { shards: set } = shards.pool as ShardedPool;
    const publish = await turn();
    const before = set.layout;
    await shards.withClient(async client => {
      await client.query('begin');
      await client.query('select count(*) from users');
      await publish();
      await until(() => set.layout !== before);
      // By the new map it would look elsewhere than it has done.
      await expect(client.query('select * from users where id = 1')).rejects.toMatchObject({
        code: 'TRANSACTION_BROKEN',
        safeToRetry: true,
      });
      await client.query('rollback');
      expect((await client.query('select * from users where id = 1')).rows).toEqual([]);
    });
    const again = await turn();
    let attempts = 0;
    await shards.pool.transaction(async client => {
      attempts++;
      const { layout } = set;
      await client.query('select count(*) from users');
      if (attempts === 1) {
        await again();
        await until(() => set.layout !== layout);
      }
      await client.query('insert into users (id) values (1), (2), (3), (4)');
    });
    expect(attempts).toBe(2);
    expect(await where()).toEqual(expected([1, 2, 3, 4]));
    await shards.pool.query('delete from users');
  });

  test('is an error when there is no newer map, also of a transaction, which is not repeated', async () => {
    const publish = await turn();
    await expect(shards.pool.query('insert into users (id) values (1)')).rejects.toMatchObject({
      code: 'ROW_BELONGS_ELSEWHERE',
      safeToRetry: true,
    });
    let attempts = 0;
    const work = shards.pool.transaction(client => {
      attempts++;
      return client.query('insert into users (id) values (1)');
    });
    await expect(work).rejects.toMatchObject({ code: 'ROW_BELONGS_ELSEWHERE' });
    expect(attempts).toBe(1);
    await publish();
    await until(() =>
      shards.pool.query('insert into users (id) values (1)').then(
        () => true,
        () => false,
      ),
    );
  });
});

describe('migrate(pool)', () => {
  const tables = async (name: string) =>
    (await shards.servers.everywhere('select to_regclass($1) is not null as is', [name])).map(
      ({ rows }) => rows[0].is,
    );

  test('runs on all shards, on none when it fails on one, and makes up for what was left', async () => {
    const folder = temporaryFolder();
    onTestFinished(() => rmSync(folder, { recursive: true }));
    writeFileSync(path.join(folder, '001.sql'), 'create table first (id int)');
    // As a crash between two commits leaves it.
    await migrate(shards.servers.pools[1]!, folder);
    expect(await migrate(shards.pool, folder)).toEqual({ applied: ['001.sql'], already: 0 });
    expect(await tables('first')).toEqual([true, true, true]);
    await shards.servers.pools[2]!.query('create table second (id int)');
    writeFileSync(path.join(folder, '002.sql'), 'create table second (id int)');
    await expect(migrate(shards.pool, folder)).rejects.toMatchObject({
      code: 'MIGRATION_FAILED',
      message: expect.stringContaining('s2'),
    });
    expect(await tables('second')).toEqual([false, false, true]);
    await shards.servers.pools[2]!.query('drop table second');
    expect(await migrate(shards.pool, folder)).toEqual({ applied: ['002.sql'], already: 1 });
    expect(await tables('second')).toEqual([true, true, true]);
    // What was made is known at once.
    expect((await shards.pool.query('select * from second')).rows).toEqual([]);
  });
});
