/** A script is cut where psql cuts it. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { isBlank, splitScript } from '../../src/cli/sql/split.ts';

test.each([
  ['select 1; select 2;', ['select 1', 'select 2'], ''],
  ['select 1; select 2', ['select 1'], ' select 2'],
  [`select ';', "a;b";`, [`select ';', "a;b"`], ''],
  [`select 'it''s; fine';`, [`select 'it''s; fine'`], ''],
  [`select 'back\\'; select 2;`, [`select 'back\\'`, 'select 2'], ''],
  [`select E'quote \\'; here';`, [`select E'quote \\'; here'`], ''],
  [`select name'x;y';`, [`select name'x;y'`], ''],
  ['do $$ begin; end $$; select 1;', ['do $$ begin; end $$', 'select 1'], ''],
  ['select $a$ $b$ ; $a$;', ['select $a$ $b$ ; $a$'], ''],
  ['select a$1$; select $1;', ['select a$1$', 'select $1'], ''],
  ['-- a; b\nselect 1;', ['-- a; b\nselect 1'], ''],
  ['/* ; /* nested ; */ ; */ select 1;', ['/* ; /* nested ; */ ; */ select 1'], ''],
  [
    'create rule r as on insert to t do (select 1; select 2);',
    ['create rule r as on insert to t do (select 1; select 2)'],
    '',
  ],
  [
    'create or replace function f() returns int begin atomic select 1; select case when true then 2 end; end; select 3;',
    [
      'create or replace function f() returns int begin atomic select 1; select case when true then 2 end; end',
      'select 3',
    ],
    '',
  ],
  ['begin; select 1; end;', ['begin', 'select 1', 'end'], ''],
  [';;  ; -- nothing\n;', [], ''],
  [`select 'open; `, [], `select 'open; `],
  ['select $x$ open; ', [], 'select $x$ open; '],
  ['/* open; ', [], '/* open; '],
])('%j', (script, statements, rest) => {
  expect(splitScript(script)).toEqual({ statements, rest });
});

test('blanks and comments are blank, an open comment too', () => {
  expect(['', ' \n\t', '-- x', '/* /* x */ */ ', '/* open'].map(isBlank)).toEqual(
    Array(5).fill(true),
  );
  expect(['a', "''", ';', '*/'].map(isBlank)).toEqual(Array(4).fill(false));
});

/** Pieces that hold semicolons in every way in which they do not count. */
const piece = fc.oneof(
  fc.constantFrom('select', 'x', '1', '"a;b"', '(a; b)', '/* ; */', '-- ;\n', "E'\\';'", '$$;$$'),
  fc.string().map(text => `'${text.replaceAll("'", "''")}'`),
  fc.string().map(text => `$t$${text.replaceAll('$', '')}$t$`),
);

test('property: statements put together come apart again as they were', () => {
  const statement = fc
    .array(piece, { minLength: 1, maxLength: 6 })
    .map(pieces => ['select', ...pieces].join(' '));
  fc.assert(
    fc.property(fc.array(statement), written => {
      const { statements, rest } = splitScript(written.map(text => `${text};\n`).join(''));
      expect(statements).toEqual(written.map(text => text.trim()));
      expect(isBlank(rest)).toBe(true);
    }),
  );
});

test('property: nothing of any text is lost but semicolons and blanks', () => {
  const strip = (text: string) => text.replace(/[\s;]/g, '');
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), text => {
      const { statements, rest } = splitScript(text);
      const all = strip(statements.join('') + rest);
      // Comments without a statement are dropped.
      if (!text.includes('--') && !text.includes('/*')) expect(all).toBe(strip(text));
    }),
  );
});
