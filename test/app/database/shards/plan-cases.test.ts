/**
 * plan-cases.txt: what becomes of each statement on four shards, or why it is refused, word for word.
 *
 * `UPDATE_CASES=1 npx vitest run test/app/database/shards/plan-cases.test.ts` writes the file anew, for a person to
 * read what has changed.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { describePlan } from '../../../../src/app/database/shards/plan/describe.ts';
import { ShardRefused } from '../../../../src/app/database/shards/plan/refused.ts';
import { TestPostgres } from '../../../support/postgres.ts';
import { TestShards } from '../../../support/shards.ts';
import { SCHEMA, TABLES } from './fixture.ts';

const FILE = new URL('plan-cases.txt', import.meta.url);
const lines = readFileSync(FILE, 'utf8').split('\n');

let postgres: TestPostgres;
let shards: TestShards;

beforeAll(async () => {
  postgres = await TestPostgres.start();
  shards = await TestShards.start(postgres, 4, SCHEMA, TABLES);
});
afterAll(async () => {
  shards?.close();
  await postgres?.remove();
});

function planOf(text: string): string[] {
  try {
    return describePlan(shards.router.plan(text));
  } catch (error) {
    if (!(error instanceof ShardRefused)) throw error;
    return [`! ${error.what}. ${error.remedy}`];
  }
}

test('each statement has the plan that is written down', () => {
  const found: string[] = [];
  let statements = 0;
  for (const line of lines) {
    if (line.startsWith('    ')) continue;
    found.push(line);
    if (line === '' || line.startsWith('#')) continue;
    statements++;
    found.push(...planOf(line).map(step => `    ${step}`));
  }
  if (process.env.UPDATE_CASES) writeFileSync(FILE, found.join('\n'));
  else expect(found).toEqual(lines);
  expect(statements).toBeGreaterThan(200);
});

test('what is refused says what, and what to do', () => {
  const refused = lines.filter(line => line.startsWith('    ! '));
  expect(refused.length).toBeGreaterThan(40);
  for (const line of refused) expect(line).toMatch(/^ {4}! .+\. [A-Z].+[^.]$/);
});

test('in the place of a join, the copy that is kept is named, or what is to be written for one', async () => {
  const copied = await TestShards.start(postgres, 2, SCHEMA, TABLES, {
    denormalize: { 'public.likes.liker': { from: 'public.users.name', via: 'user_id' } },
  });
  try {
    const refusal = (columns: string) => {
      try {
        copied.router.plan(`select ${columns} from likes l join users u on u.id = l.user_id`);
      } catch (error) {
        return (error as ShardRefused).remedy;
      }
      return undefined;
    };
    expect(refusal('u.name')).toMatch(
      /or read likes.liker, which is kept as a copy, and leave users out$/,
    );
    expect(refusal('u.name, u.age')).toMatch(
      /`denormalize: \{ 'likes.liker': 'users.name via user_id', 'likes.users_age': 'users.age via user_id' \}`$/,
    );
  } finally {
    copied.close();
  }
});
