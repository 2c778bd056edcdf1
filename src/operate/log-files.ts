/** The units' log files, read back: merged by time, oldest first. Used when no supervisor runs. */
import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import type { LogLine } from '../machines/unit-log.ts';

/** The last `count` lines of the current files, of one unit or of all. */
export async function readLogFiles(
  folder: string,
  count: number,
  unit?: string,
): Promise<LogLine[]> {
  const files = listUnits(folder).filter(name => !unit || name === unit);
  const parts = await Promise.all(
    files.map(async name => parse(name, await readFile(path.join(folder, `${name}.log`), 'utf8'))),
  );
  const lines = parts.flat().sort((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
  return lines.slice(Math.max(0, lines.length - count));
}

/** The units that have a log. */
export function listUnits(folder: string): string[] {
  try {
    return readdirSync(folder)
      .filter(name => name.endsWith('.log'))
      .map(name => name.slice(0, -'.log'.length));
  } catch {
    return [];
  }
}

function parse(unit: string, text: string): LogLine[] {
  return text
    .split('\n')
    .filter(line => line !== '')
    .map(line => {
      const blank = line.indexOf(' ');
      return { time: line.slice(0, blank), unit, text: line.slice(blank + 1) };
    });
}
