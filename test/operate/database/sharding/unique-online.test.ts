/** A column is put under uniqueness across shards, and out of it, while the table is written all the time. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Pool } from '../../../../src/app/database/pool.ts';
import { readSchema } from '../../../../src/app/database/shards/declaration/schema.ts';
import { evenRanges, Ranges } from '../../../../src/app/database/shards/ranges.ts';
import { lookupName } from '../../../../src/app/database/shards/unique/columns.ts';
import type { RuntimeMap } from '../../../../src/map/runtime-map.ts';
import { keepUnique } from '../../../../src/operate/database/sharding/unique.ts';
import { HintedPools } from '../../../support/hinted-shards.ts';
import { ShardServers } from '../../../support/shard-servers.ts';
import { until } from '../../../support/until.ts';

const RANGES = evenRanges(2);
const ranges = new Ranges(RANGES);
const NAME = 'public.users.email';
const LOOKUP = `banyan."${lookupName(NAME)}"`;
const TABLES: RuntimeMap['database']['tables'] = { 'public.users': { kind: 'sharded', key: 'id' } };

let shards: ShardServers;
let hinted: HintedPools;
/** Two web servers. */
let pools: Pool[];

beforeAll(async () => {
  shards = await ShardServers.start(2, { servers: 2 });
  await shards.everywhere('create table users (id bigint primary key, email text unique)');
  hinted = HintedPools.of(shards);
  await hinted.publish({ tables: TABLES });
  pools = [hinted.pool({ max: 8 }), hinted.pool({ max: 8 })];
});
afterAll(async () => {
  await hinted?.remove();
  await shards?.remove();
});

const at = (id: number) => ranges.shardOfKey('int8', id)!;

let before: string[] = [];

async function declare(unique: string[]): Promise<void> {
  const database = {
    name: 'test',
    shards: RANGES.map((range, index) => ({ id: String(index), range, members: [] })),
    tables: TABLES,
    unique,
  };
  try {
    await keepUnique(shards.urls, database, await readSchema(shards.pools[0]!), {
      before,
      announce: async (names, filling) => {
        before = [...names];
        await hinted.publish({ tables: TABLES, unique: before, uniqueFilling: [...filling] });
      },
    });
    before = unique;
  } finally {
    await hinted.publish({ tables: TABLES, unique: before });
  }
}

/** Writes from several sessions until it is stopped; every one of them has to succeed. */
function writing() {
  const failures: unknown[] = [];
  let stops = false;
  let written = 0;
  const sessions = [0, 1, 2, 3].map(async session => {
    const pool = pools[session % 2]!;
    for (let i = 0; !stops; i++) {
      // Its own rows, and values that nobody else has.
      const id = session * 100 + (i % 50);
      const sql = [
        'insert into users values ($1, $2) on conflict (id) do update set email = excluded.email',
        'update users set email = $2 where id = $1',
        'delete from users where id = $1 and $2::text is not null',
      ][i % 7 === 6 ? 2 : i % 2]!;
      try {
        await pool.query(`/* ${at(id)} */ ${sql}`, [id, `${id}-${i % 120}@example.org`]);
        written++;
      } catch (error) {
        failures.push(error);
      }
    }
  });
  return {
    failures,
    get written() {
      return written;
    },
    async stop() {
      stops = true;
      await Promise.all(sessions);
    },
  };
}

async function stored(): Promise<string[]> {
  const results = await shards.everywhere(
    'select email, id::int from users where email is not null',
  );
  return results.flatMap(({ rows }) => rows.map(({ email, id }) => `${email} ${id}`)).sort();
}

async function looked(): Promise<string[]> {
  const results = await shards.everywhere(`select value, key::int from ${LOOKUP}`);
  return results
    .flatMap(({ rows }, shard) => {
      for (const { value } of rows) expect(ranges.shardOfKey('text', value)).toBe(shard);
      return rows.map(({ value, key }) => `${value} ${key}`);
    })
    .sort();
}

test('it is put under uniqueness, and out of it, and back, and no write fails', async () => {
  const writes = writing();
  const goOn = async () => {
    const { written } = writes;
    await until(() => writes.written > written + 200, {
      what: 'more is written',
      timeoutMs: 60_000,
    });
  };
  await goOn();
  for (const unique of [[NAME], [], [NAME]]) {
    await declare(unique);
    await goOn();
  }
  await writes.stop();
  expect(writes.failures).toEqual([]);
  expect(await looked()).toEqual(await stored());
  // It is in force: on another shard than where the value is.
  const [row] = (await stored()).map(text => text.split(' ') as [string, string]);
  const other = Array.from({ length: 50 }, (_, i) => 1_000 + i).find(
    id => at(id) !== at(Number(row![1])),
  )!;
  const insert = pools[0]!.query(`/* ${at(other)} */ insert into users values ($1, $2)`, [
    other,
    row![0],
  ]);
  await expect(insert).rejects.toMatchObject({ code: '23505', table: 'users' });
  await declare([]);
}, 240_000);

test('values that are there twice are told, several of them, and writes go on', async () => {
  const [here, there] = [0, 1].map(shard =>
    Array.from({ length: 100 }, (_, i) => 2_000 + i).filter(id => at(id) === shard),
  ) as [number[], number[]];
  for (let i = 0; i < 3; i++) {
    for (const id of [here[i]!, there[i]!]) {
      await pools[0]!.query(`/* ${at(id)} */ insert into users values ($1, $2)`, [
        id,
        `twice${i}@example.org`,
      ]);
    }
  }
  const writes = writing();
  await expect(declare([NAME])).rejects.toMatchObject({
    code: 'VALUES_NOT_UNIQUE',
    message: expect.stringMatching(/twice0@example.org, twice1@example.org, twice2@example.org/),
  });
  const { written } = writes;
  await until(() => writes.written > written + 200, { what: 'more is written' });
  await writes.stop();
  expect(writes.failures).toEqual([]);
  const left = await shards.everywhere(`select to_regclass('${LOOKUP}') as name`);
  expect(left.flatMap(({ rows }) => rows)).toEqual([{ name: null }, { name: null }]);
}, 240_000);
