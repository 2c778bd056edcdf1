import { readFileSync } from 'node:fs';
import { test } from 'vitest';
import { describePlan } from '../src/app/database/shards/plan/describe.ts';
import { SCHEMA, TABLES } from './app/database/shards/fixture.ts';
import { TestPostgres } from './support/postgres.ts';
import { TestShards } from './support/shards.ts';
test('x', async () => {
  const postgres = await TestPostgres.start();
  try {
    const shards = await TestShards.start(postgres, 4, SCHEMA, TABLES);
    for (const line of readFileSync('/tmp/plan-scratch/statements.txt', 'utf8').split('\n')) {
      if (!line) continue;
      if (line.startsWith('#')) { console.log(line); continue; }
      try {
        console.log(line + '\n' + describePlan(shards.router.plan(line)).map(x => '    ' + x).join('\n'));
      } catch (e) {
        console.log(line + '\n    ! ' + ((e as {code?: string}).code === 'SHARD_REFUSED' ? (e as Error).message : (e as Error).stack));
      }
    }
    shards.close();
  } finally { await postgres.remove(); }
});
