/** Columns are put under uniqueness across shards with the rows that are there, and taken out of it. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { readSchema } from '../../../../src/app/database/shards/declaration/schema.ts';
import { evenRanges, Ranges } from '../../../../src/app/database/shards/ranges.ts';
import { lookupName } from '../../../../src/app/database/shards/unique/columns.ts';
import type { RuntimeMap } from '../../../../src/map/runtime-map.ts';
import { keepUnique } from '../../../../src/operate/database/sharding/unique.ts';
import { ShardServers } from '../../../support/shard-servers.ts';

const RANGES = evenRanges(2);
const ranges = new Ranges(RANGES);
const LOOKUP = `banyan."${lookupName('public.users.email')}"`;
const DATABASE: RuntimeMap['database'] = {
  name: 'test',
  shards: RANGES.map((range, index) => ({ id: String(index), range, members: [] })),
  tables: { 'public.users': { kind: 'sharded', key: 'id' } },
  unique: ['public.users.email'],
};

let shards: ShardServers;

beforeAll(async () => {
  shards = await ShardServers.start(2);
});
afterAll(() => shards?.remove());
beforeEach(async () => {
  await shards.everywhere('drop table if exists users');
  await shards.everywhere('create table users (id bigint primary key, email text unique)');
});

const keep = async (database = DATABASE) =>
  keepUnique(shards.urls, database, await readSchema(shards.pools[0]!));

const insert = (id: number, email: string | null) =>
  shards.pools[ranges.shardOfKey('int8', id)!]!.query('insert into users values ($1, $2)', [
    id,
    email,
  ]);

test('the values that are there are known, where their hash says; again and again', async () => {
  for (let id = 1; id <= 40; id++) await insert(id, id % 5 ? `user${id}@example.org` : null);
  for (let i = 0; i < 2; i++) {
    await keep();
    const found = await shards.everywhere(`select value, key::int from ${LOOKUP}`);
    for (const [shard, { rows }] of found.entries()) {
      for (const { value } of rows) expect(ranges.shardOfKey('text', value)).toBe(shard);
    }
    expect(found.flatMap(({ rows }) => rows)).toHaveLength(32);
  }
  await expect(insert(100, 'late@example.org')).rejects.toMatchObject({ code: 'BNY01' });
  await insert(100, null);
  await keep({ ...DATABASE, unique: [] });
  await insert(101, 'late@example.org');
  const left = await shards.everywhere(`select to_regclass('${LOOKUP}') as name`);
  expect(left.flatMap(({ rows }) => rows)).toEqual([{ name: null }, { name: null }]);
  // And back.
  await keep();
  const again = await shards.everywhere(`select from ${LOOKUP}`);
  expect(again.reduce((sum, { rowCount }) => sum + rowCount!, 0)).toBe(33);
  await keep({ ...DATABASE, unique: [] });
});

test('a value that two rows have is told, and what it was can go on', async () => {
  const [one, other] = [0, 1].map(
    shard => [1, 2, 3, 4, 5, 6, 7, 8].find(id => ranges.shardOfKey('int8', id) === shard)!,
  );
  await insert(one!, 'ann@example.org');
  await insert(other!, 'ann@example.org');
  await expect(keep()).rejects.toMatchObject({
    code: 'VALUES_NOT_UNIQUE',
    message: expect.stringContaining('ann@example.org'),
  });
  await keep({ ...DATABASE, unique: [] });
  await insert(100, 'bob@example.org');
});
