import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import {
  MAX_TEXT_LENGTH,
  openParser,
  type Parsed,
  type Parser,
} from '../../../../src/app/database/route/parser.ts';
import { TestPostgres } from '../../../support/postgres.ts';
import { until } from '../../../support/until.ts';

let parser: Parser;
beforeAll(async () => {
  parser = await openParser();
});

const DEEP = `select 1${'+1'.repeat(20_000)}`;

/** Whatever a text is made of. */
const anything = fc.oneof(
  fc.string({ unit: 'grapheme' }),
  fc.string({ unit: 'binary' }),
  fc
    .array(
      fc.oneof(
        fc.string({ maxLength: 4 }),
        fc.constantFrom(
          ...[
            'select',
            'from',
            'with',
            'insert',
            'begin',
            '(',
            ')',
            ',',
            ';',
            "'",
            '"',
            '$$',
            '$1',
          ],
          ...['--', '/*', '*/', "E'\\", 'U&"\\', '::', '\0', '\ud800', '🌳', "b'", '1e', '.', '\\'],
        ),
      ),
      { maxLength: 20 },
    )
    .map(parts => parts.join(' ')),
);

test('arbitrary text gives a result, never an exception', () => {
  fc.assert(
    fc.property(anything, text => {
      expect(['statements', 'syntax-error']).toContain(parser.parse(text).kind);
    }),
    { numRuns: 20_000 },
  );
});

test('what does not parse is told in the words and with the position of PostgreSQL', async () => {
  await using postgres = await TestPostgres.start();
  const pool = await postgres.pool();
  for (const text of [
    'selec 1',
    "select '🌳', from from",
    'select (1',
    "select 'unfinished",
    'insert into t values (1,)',
    'select * from t where a = = 1',
  ]) {
    const error = await pool.query(text).catch(error => error);
    const parsed = parser.parse(text) as Extract<Parsed, { kind: 'syntax-error' }>;
    expect(parsed.kind, text).toBe('syntax-error');
    expect(parsed.message).toBe(error.message);
    expect(parsed.position, text).toBe(Number(error.position));
  }
});

test('nothing after a zero character goes unseen', () => {
  expect(parser.parse('select 1\0; drop table users')).toMatchObject({ kind: 'syntax-error' });
});

test('an empty text and one of comments alone hold no statement', () => {
  for (const text of ['', '  ', ';', '-- select 1', '/* a /* nested */ comment */']) {
    expect(parser.parse(text), text).toEqual({ kind: 'statements', statements: [] });
  }
});

test('a text that is too long is not parsed', () => {
  const text = `select '${'x'.repeat(MAX_TEXT_LENGTH)}'`;
  expect(parser.parse(text)).toEqual({ kind: 'too-large', limit: MAX_TEXT_LENGTH });
});

describe('a text that is nested too deeply', () => {
  test('is told, and the next are parsed as before, however often it comes', async () => {
    for (let round = 0; round < 40; round++) {
      expect(parser.parse(DEEP)).toEqual({ kind: 'too-complex' });
      await until(() => parser.parse('select 1').kind === 'statements');
    }
    // A parser with a damaged stack would fail on texts that need more of it.
    const long = `select ${Array.from({ length: 5_000 }, (_, n) => n).join(', ')}`;
    expect(parser.parse(long).kind).toBe('statements');
  });

  test('in between nothing is parsed, and nothing is wrong', async () => {
    expect(parser.parse(DEEP)).toEqual({ kind: 'too-complex' });
    expect(parser.parse('select 1')).toEqual({ kind: 'unavailable' });
    await until(() => parser.parse('select 1').kind === 'statements');
  });

  test('when the grammar itself gives up, the parser stays', () => {
    const text = `select ${'('.repeat(20_000)}1${')'.repeat(20_000)}`;
    expect(parser.parse(text)).toEqual({ kind: 'too-complex' });
    expect(parser.parse('select 1').kind).toBe('statements');
  });
});

test('it does not grow with the number of texts', () => {
  const parse = (count: number) => {
    for (let n = 0; n < count; n++) parser.parse(`select ${n}, * from t where id = $1`);
    return process.memoryUsage().external;
  };
  const before = parse(2_000);
  expect(parse(20_000)).toBeLessThan(before + 16 * 1024 * 1024);
});
