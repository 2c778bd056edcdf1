import fc from 'fast-check';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  hashExpression,
  hashKey,
  hashToBigInt,
  KEY_TYPES,
  type KeyType,
  UnhashableKey,
} from '../../../../src/app/database/shards/hash.ts';
import { TestPostgres } from '../../../support/postgres.ts';

let postgres: TestPostgres;
let pool: pg.Pool;
beforeAll(async () => {
  postgres = await TestPostgres.start();
  pool = await postgres.pool();
});
afterAll(() => postgres?.remove());

const ours = (type: KeyType, value: unknown) => {
  const hash = hashKey(type, value);
  return hash ? String(hashToBigInt(hash)) : null;
};

/** What the server says of each, which travels as text, as pg sends it; null of what is none of the type. */
async function servers(type: KeyType, values: unknown[]): Promise<(string | null)[]> {
  const { rows } = await pool.query({
    text: `select case when pg_input_is_valid(value, '${type}')
                       then ${hashExpression(type, `value::${type}`)}::text end
             from unnest($1::text[]) with ordinality as given(value, place) order by place`,
    values: [values.map(value => (value === null ? null : String(value)))],
    rowMode: 'array',
  });
  return rows.map(([hash]) => hash);
}

const integer = (bits: bigint) =>
  fc.oneof(
    fc.bigInt({ min: -(2n ** (bits - 1n)), max: 2n ** (bits - 1n) - 1n }),
    fc.bigInt({ min: -300n, max: 300n }),
    fc.constantFrom(-(2n ** (bits - 1n)), 2n ** (bits - 1n) - 1n),
  );

const noNul = (text: string) => !text.includes('\0');
const text = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }).filter(noNul),
  fc.string({ unit: 'grapheme', maxLength: 20 }).filter(noNul),
  // Every remainder of the blocks of twelve, and long ones.
  fc.string({ unit: fc.constantFrom('a', 'é', '漢', '🌳'), maxLength: 200 }),
);

const keys: Record<KeyType, fc.Arbitrary<unknown>> = {
  int2: integer(16n),
  int4: integer(32n),
  int8: integer(64n),
  text,
  varchar: text,
  uuid: fc.uuid(),
};

describe.each(KEY_TYPES)('%s', type => {
  test('a key has the hash that the server gives it', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(keys[type], { minLength: 50, maxLength: 100 }), async values => {
        expect(values.map(value => ours(type, value))).toEqual(await servers(type, values));
      }),
      { numRuns: 40 },
    );
  });
});

test('every int2 has the hash that the server gives it', async () => {
  const all = Array.from({ length: 2 ** 16 }, (_, i) => i - 2 ** 15);
  expect(all.map(value => ours('int2', value))).toEqual(await servers('int2', all));
});

test('numbers, bigints and text of the same key have the same hash', () => {
  fc.assert(
    fc.property(fc.maxSafeInteger(), value => {
      const hash = ours('int8', value);
      expect(ours('int8', String(value))).toBe(hash);
      expect(ours('int8', BigInt(value))).toBe(hash);
    }),
  );
});

const oddIntegers = fc
  .tuple(
    fc.constantFrom('', ' ', '\t\n', '\u00a0'),
    fc.constantFrom('', '-', '+', '- ', '--'),
    fc.constantFrom('', '0', '00', '0x', '0X_', '0o', '0b', '_'),
    fc.oneof(
      fc.constantFrom('', '_', '1_000', '1__0', '9', 'ff', '17', '101', '1e3', '1.0', '1.5'),
      fc.constantFrom('32767', '32768', '2147483647', '2147483648'),
      fc.constantFrom('9223372036854775807', '9223372036854775808', '9007199254740993'),
    ),
    fc.constantFrom('', ' ', '\v\f\r', ' 1'),
  )
  .map(parts => parts.join(''));

const oddUuids = fc
  .tuple(fc.uuid(), fc.constantFrom(0, 2, 4, 8, 9, 13, 20, 31), fc.constantFrom('', '-', '--'))
  .chain(([uuid, at, extra]) => {
    const digits = uuid.replaceAll('-', '');
    const odd = digits.slice(0, at) + extra + digits.slice(at);
    return fc.constantFrom(uuid.toUpperCase(), odd, `{${odd}}`, `{${uuid}`, `${uuid}}`, ` ${uuid}`);
  });

test.each<[KeyType, fc.Arbitrary<unknown>]>([
  ['int2', oddIntegers],
  ['int4', oddIntegers],
  ['int8', oddIntegers],
  ['int4', fc.oneof(fc.double(), fc.boolean(), fc.constant(null))],
  ['text', fc.oneof(fc.double(), fc.boolean(), fc.bigInt(), fc.constant(null))],
  ['text', fc.string({ unit: fc.constantFrom('a', '\ud800', '\udc00', '🌳') })],
  ['uuid', oddUuids],
  ['uuid', fc.string().filter(noNul)],
])('%s written oddly: the server hashes the same or has no such key', async (type, values) => {
  await fc.assert(
    fc.asyncProperty(fc.array(values, { minLength: 50, maxLength: 100 }), async all => {
      expect(all.map(value => ours(type, value))).toEqual(await servers(type, all));
    }),
    { numRuns: 40 },
  );
});

test('text with a NUL character is no key, and no text to the server', async () => {
  expect(ours('text', 'a\0b')).toBeNull();
  await expect(pool.query('select $1::text', ['a\0b'])).rejects.toThrow('0x00');
});

test('a value that is no plain one is refused, by the name of its type', () => {
  for (const value of [new Date(), Buffer.from('a'), [1], {}, Symbol('a')]) {
    expect(() => hashKey('text', value)).toThrow(UnhashableKey);
  }
  expect(() => hashKey('int4', new Date())).toThrow('of type int4 is of the JavaScript type Date');
});
