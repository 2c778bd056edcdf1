import { expect, test } from 'vitest';
import { haveErrorsRisen } from '../../../src/operate/releases/watch.ts';

const sample = (errors: number, total: number) => ({ errors, total });

test.each([
  ['too few answers say nothing', sample(9, 9), sample(0, 100), false],
  ['none', sample(0, 100), sample(0, 100), false],
  ['a stray one is tolerated', sample(2, 100), sample(0, 100), false],
  ['as many as before is no rise', sample(10, 100), sample(10, 100), false],
  ['more than twice as many is', sample(21, 100), sample(10, 100), true],
  ['many where there were none', sample(10, 100), sample(0, 100), true],
  ['many where nothing is known of before', sample(10, 20), sample(0, 0), true],
])('%s', (_what, after, before, risen) => {
  expect(haveErrorsRisen(after, before)).toBe(risen);
});
