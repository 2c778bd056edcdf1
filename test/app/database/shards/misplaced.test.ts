import { expect, test } from 'vitest';
import {
  explainMisplaced,
  isMisplaced,
  RowBelongsElsewhere,
} from '../../../../src/app/database/shards/misplaced.ts';

const refusedBy = (constraint: string, code = '23514') =>
  Object.assign(new Error('violates'), { code, constraint, schema: 'public', table: 'users' });

test("the guard's refusal is told apart from that of any other constraint", () => {
  expect(isMisplaced(refusedBy('banyan_shard_guard'))).toBe(true);
  for (const error of [
    refusedBy('users_age_check'),
    refusedBy('banyan_shard_guard', '23505'),
    new Error('banyan_shard_guard'),
    undefined,
  ]) {
    expect(isMisplaced(error)).toBe(false);
    expect(explainMisplaced(error, '2')).toBe(error);
  }
  const explained = explainMisplaced(refusedBy('banyan_shard_guard'), '2');
  expect(explained).toBeInstanceOf(RowBelongsElsewhere);
  expect(explained).toMatchObject({ code: 'ROW_BELONGS_ELSEWHERE', safeToRetry: true });
  expect((explained as Error).message).toContain('A row of public.users');
});
