/**
 * COPY: the fastest way into PostgreSQL. Rows are made only as fast as the database takes them, so memory
 * stays the same however many there are.
 */
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { PoolClient } from 'pg';
import { from } from 'pg-copy-streams';

const CHUNK_CHARACTERS = 64 * 1024;

/**
 * Copies rows into a table.
 * @param rows texts of one or more lines, made by {@link line}
 * @param onChunk is called now and then, with the characters sent so far
 * @returns how many rows the database took
 */
export async function copyInto(
  client: PoolClient,
  table: string,
  columns: string[],
  rows: Iterable<string>,
  onChunk: () => void,
): Promise<number> {
  const target = client.query(from(`copy ${table} (${columns.join(', ')}) from stdin`));
  await pipeline(Readable.from(chunks(rows, onChunk), { objectMode: false }), target);
  return target.rowCount;
}

/** A line of COPY's text format. */
export function line(...fields: (string | number)[]): string {
  let text = '';
  for (let at = 0; at < fields.length; at++) {
    const value = fields[at]!;
    text += at === 0 ? '' : '\t';
    text += typeof value === 'number' ? value : escaped(value);
  }
  return `${text}\n`;
}

/** An array of PostgreSQL's, for words that need no quotes but get them. */
export function arrayOf(words: string[]): string {
  return `{${words.map(word => `"${word.replace(/["\\]/g, '\\$&')}"`).join(',')}}`;
}

const SPECIAL = /[\\\n\r\t]/g;
const ESCAPES: Record<string, string> = { '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' };

function escaped(text: string): string {
  return text.replace(SPECIAL, character => ESCAPES[character]!);
}

function* chunks(rows: Iterable<string>, onChunk: () => void): Generator<Buffer> {
  let chunk = '';
  for (const row of rows) {
    chunk += row;
    if (chunk.length < CHUNK_CHARACTERS) continue;
    yield Buffer.from(chunk);
    chunk = '';
    onChunk();
  }
  if (chunk) yield Buffer.from(chunk);
}
