/** A clone runs what was built only while it is of the sources as they are. */
import { mkdirSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { BUILT_FROM, isBuilt, stateOfSources } from '../../bin/sources.js';
import { temporaryFolder } from '../support/deployment.ts';

let folder: string;
const at = (...names: string[]) => path.join(folder, ...names);
const built = () => isBuilt(at('src'), at('dist'));

beforeEach(() => {
  folder = temporaryFolder();
  for (const name of ['src/cli', 'dist']) mkdirSync(at(name), { recursive: true });
  writeFileSync(at('src/index.ts'), '1');
  writeFileSync(at('src/cli/main.ts'), '2');
  writeFileSync(at('dist', BUILT_FROM), stateOfSources(at('src')));
});
afterEach(() => rmSync(folder, { recursive: true }));

test('as long as nothing is touched', () => {
  expect(built()).toBe(true);
});

test('not when it was never built, or a build was broken off', () => {
  rmSync(at('dist', BUILT_FROM));
  expect(built()).toBe(false);
});

test.each<[string, () => void]>([
  ['changed', () => writeFileSync(at('src/cli/main.ts'), '20')],
  ['written anew', () => utimesSync(at('src/cli/main.ts'), new Date(), new Date(1))],
  ['added', () => writeFileSync(at('src/cli/up.ts'), '3')],
  ['renamed', () => renameSync(at('src/cli/main.ts'), at('src/cli/other.ts'))],
  ['deleted', () => rmSync(at('src/cli/main.ts'))],
])('not when a file was %s', (_, touch) => {
  touch();
  expect(built()).toBe(false);
});
