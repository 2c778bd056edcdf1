/** The table "what may import what" of docs/architecture.md holds in the code. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { REPOSITORY } from './support/deployment.ts';

const SOURCES = path.join(REPOSITORY, 'src');

/** room → rooms that it may import, read from the document. `all of the above` is what stands above. */
function allowedImports(): Map<string, string[]> {
  const document = readFileSync(path.join(REPOSITORY, 'docs/architecture.md'), 'utf8');
  const section = document.split('## What may import what')[1]!.split('\n## ')[0]!;
  const allowed = new Map<string, string[]>();
  for (const [, room, imports] of section.matchAll(/^\| `([\w.]+)\/?`\s*\| (.+?)\s*\|$/gm)) {
    const name = room!.replace('.ts', '');
    const named = [...imports!.matchAll(/`(\w+)`/g)].map(match => match[1]!);
    allowed.set(name, imports === 'all of the above' ? [...allowed.keys()] : named);
  }
  return allowed;
}

const roomOf = (file: string) =>
  path.relative(SOURCES, file).split(path.sep)[0]!.replace('.ts', '');

test('no room imports what it may not', () => {
  const allowed = allowedImports();
  expect(allowed.size).toBe(8);
  const wrong: string[] = [];
  for (const name of readdirSync(SOURCES, { recursive: true, encoding: 'utf8' })) {
    if (!name.endsWith('.ts') || name === 'index.ts') continue;
    const file = path.join(SOURCES, name);
    const room = roomOf(file);
    for (const [, target] of readFileSync(file, 'utf8').matchAll(
      /(?:from|import\()\s*'(\.[^']+)'/g,
    )) {
      const other = roomOf(path.resolve(path.dirname(file), target!));
      if (other !== room && !allowed.get(room)?.includes(other)) wrong.push(`${name} → ${target}`);
    }
  }
  expect(wrong).toEqual([]);
});
