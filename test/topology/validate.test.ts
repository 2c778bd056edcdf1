import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { defineTopology, type Topology } from '../../src/topology/topology.ts';
import {
  InvalidTopology,
  type TopologyMistake,
  validateTopology,
} from '../../src/topology/validate.ts';

const FILE = '/app/banyan.config.ts';

const COMPLETE = defineTopology({
  name: 'shop',
  web: {
    command: 'node server.ts',
    port: 8080,
    host: '0.0.0.0',
    ready: '/ready',
    startTimeoutMs: 1_000,
    drainTimeoutMs: 1_000,
    env: { LOG_LEVEL: 'debug', EMPTY: '' },
  },
  database: {
    url: 'postgres://user:password@db.example:5432/shop',
    port: 5433,
    migrations: 'db/migrations',
    memoryMb: 512,
    maxConnections: 50,
    settings: { log_min_duration_statement: '200ms', jit: false, 'my.own': 1.5 },
  },
  logs: { maxFileMb: 1, keepFiles: 2 },
});

function errorOf(input: unknown): InvalidTopology {
  try {
    validateTopology(input, FILE);
  } catch (error) {
    expect(error).toBeInstanceOf(InvalidTopology);
    return error as InvalidTopology;
  }
  throw new Error(`was taken for valid: ${JSON.stringify(input)}`);
}

const mistakesIn = (input: unknown): TopologyMistake[] => errorOf(input).mistakes;

test('what is right is taken as it is', () => {
  expect(validateTopology(COMPLETE, FILE)).toEqual(COMPLETE);
  expect(validateTopology({}, FILE)).toEqual({});
  expect(validateTopology({ web: {}, database: undefined }, FILE)).toEqual({ web: {} });
});

test('every mistake at once, each with path, value, what is allowed and the nearest key', () => {
  const error = errorOf({
    nmae: 'shop',
    web: { prot: 3000, startimeoutms: 5, port: 70_000, ready: 'ready', env: { PORT: '1', A: 5 } },
    database: {
      memoryMb: 1.5,
      migrations: 'a',
      migrate: 'b',
      url: 'mysql://x',
      settings: { fsync: 'off' },
    },
    logs: { keepFiles: '5' },
    monitoring: true,
  });
  expect(error.mistakes.map(({ path, nearest }) => [path, nearest])).toEqual([
    ['nmae', 'name'],
    ['web.prot', 'web.port'],
    ['web.startimeoutms', 'web.startTimeoutMs'],
    ['monitoring', undefined],
    ['web.port', undefined],
    ['web.ready', undefined],
    ['web.env.PORT', undefined],
    ['web.env.A', undefined],
    ['database.url', undefined],
    ['database.memoryMb', undefined],
    ['database.settings.fsync', undefined],
    ['database.migrate', undefined],
    ['logs.keepFiles', undefined],
  ]);
  expect(error).toMatchObject({ code: 'INVALID_TOPOLOGY', where: FILE });
  expect(error.message).toContain('13 mistakes');
  expect(error.message).toContain('web.port = 70000: expected a whole number from 0 to 65535');
  expect(error.message).toContain('web.prot = 3000: no such key; known here: command, port, ');
  expect(error.message).toContain('Did you mean `web.startTimeoutMs`?');
  expect(error.message).toContain('logs.keepFiles = "5": expected a whole number from 1 to 1000');
  expect(error.message).toContain('Nothing was changed');
  expect(error.toJSON()).toMatchObject({ code: 'INVALID_TOPOLOGY', mistakes: error.mistakes });
});

test.each([
  ['wbe', 'web'],
  ['nmae', 'name'],
  ['databases', 'database'],
  ['LOGS', 'logs'],
  ['db', undefined],
  ['mode', undefined],
  ['redis', undefined],
])('for %s, %s is meant', (key, nearest) => {
  expect(mistakesIn({ [key]: {} })[0]!.nearest).toBe(nearest);
});

test('a key that belongs elsewhere is sent there', () => {
  expect(mistakesIn({ port: 3000 })[0]).toMatchObject({ nearest: 'web.port' });
  expect(mistakesIn({ web: { migrations: 'x' } })[0]).toMatchObject({
    nearest: 'database.migrations',
  });
});

test.each([
  [{ web: { port: -1 } }, 'web.port', 'a whole number from 0 to 65535'],
  [{ web: { port: Number.NaN } }, 'web.port', 'a whole number from 0 to 65535'],
  [{ web: { command: '   ' } }, 'web.command', 'text that is not empty'],
  [{ web: { command: 'a\0b' } }, 'web.command', 'text without a zero byte'],
  [{ web: [] }, 'web', 'an object { … }'],
  [{ web: new Map() }, 'web', 'an object { … }'],
  [{ web: 'node server.ts' }, 'web', 'an object { … }'],
  [{ web: { env: ['A=1'] } }, 'web.env', 'an object { … }'],
  [{ web: { env: { 'A=B': 'x' } } }, 'web.env.A=B', 'a name of letters, digits and _'],
  [{ web: { env: { BANYAN_X: 'x' } } }, 'web.env.BANYAN_X', 'another variable'],
  [{ web: { toString: 1 } }, 'web.toString', 'no such key'],
  [{ database: { settings: { FSYNC: false } } }, 'database.settings.FSYNC', 'another setting'],
  [{ database: { settings: { include: 'x' } } }, 'database.settings.include', 'another setting'],
  [{ database: { settings: { 'a = 1\nb': 1 } } }, 'database.settings.a = 1\nb', 'the name of'],
  [{ database: { settings: { a: "x'\nfsync = off" } } }, 'database.settings.a', 'text of one line'],
  [{ database: { settings: { a: Number.POSITIVE_INFINITY } } }, 'database.settings.a', 'text of'],
  [{ database: { url: 'localhost' } }, 'database.url', 'a URL such as postgres://'],
  [{ database: { port: 3000 } }, 'database.port', 'another port than that of the web server'],
  [{ database: { shards: 0 } }, 'database.shards', 'a whole number from 1 to 64'],
  [{ database: { url: 'postgres://db/x', shards: 2 } }, 'database.shards', 'no `shards` beside'],
  [{ database: { tables: ['tags'] } }, 'database.tables', 'an object { … }'],
  [{ database: { tables: { tags: 'references' } } }, 'database.tables.tags', "'reference', or"],
  [{ database: { tables: { a: { shardBy: '' } } } }, 'database.tables.a', "'reference', or"],
  [{ database: { tables: { a: { shardBy: 1 } } } }, 'database.tables.a', "'reference', or"],
  [{ database: { tables: { a: { shardBy: 'b', c: 1 } } } }, 'database.tables.a', '{ shardBy:'],
  [{ database: { tables: { 'a.b.c': 'reference' } } }, 'database.tables.a.b.c', 'schema.table'],
  [
    { database: { tables: { a: 'reference', 'public.a': 'reference' } } },
    'database.tables',
    'each table once',
  ],
  [{ database: { unique: 'a.b' } }, 'database.unique', 'a list of columns'],
  [{ database: { unique: ['email'] } }, 'database.unique.0', 'a column, `table.column`'],
  [{ database: { unique: ['users.email'] } }, 'database.unique', 'that `tables` shards'],
  [
    { database: { tables: { users: 'reference' }, unique: ['public.users.email'] } },
    'database.unique',
    'that `tables` shards',
  ],
  [{ name: 'My Shop' }, 'name', 'lower-case letters'],
  [{ name: '' }, 'name', 'text that is not empty'],
  [null, '(the whole)', 'an object { … }'],
  ['x', '(the whole)', 'an object { … }'],
  [() => ({}), '(the whole)', 'an object { … }'],
])('%j is one mistake at %s', (input, path, allowed) => {
  const mistakes = mistakesIn(input);
  expect(mistakes).toHaveLength(1);
  expect(mistakes[0]!.path).toBe(path);
  expect(mistakes[0]!.allowed).toContain(allowed);
});

describe('secrets are never shown', () => {
  const SECRET = 'hunter2';
  const url = `postgres://user:${SECRET}@db:5432/x`;
  test.each([
    ['a wrong URL', { database: { url: url.replace('postgres', 'mysql') } }],
    ['a URL that is none', { database: { url: `user:${SECRET}@db` } }],
    ['a misspelt key', { database: { ulr: url } }],
    ['a misspelt tier', { databse: { url } }],
    ['a URL in the place of the tier', { database: url }],
    ['a URL in another key', { name: url }],
    ['another mistake in the same tier', { database: { url, migrations: 'a', migrate: 'b' } }],
    ['a URL with an unencoded slash', { db: `postgres://user:x/${SECRET}@db` }],
    ['a password parameter', { db: `postgres://db/x?user=u&password=${SECRET}` }],
    ['env', { web: { env: { DATABASE_URL: url, TOKEN: SECRET, X: [SECRET] } } }],
    ['env as a list', { web: { env: [`TOKEN=${SECRET}`] } }],
    ['env elsewhere', { env: { ANYTHING: SECRET } }],
    ['keys that tell', { password: SECRET, api: { secretKey: SECRET, token: SECRET } }],
    ['a list of URLs', { databases: [url] }],
    ['numbers', { secret: { pin: SECRET } }],
  ])('%s', (_what, input) => {
    const error = errorOf(input);
    expect(error.message).not.toContain(SECRET);
    expect(JSON.stringify(error)).not.toContain(SECRET);
  });
});

test('what JSON cannot say is shown all the same', () => {
  const circular: Record<string, unknown> = {};
  circular.self = circular;
  expect(mistakesIn({ x: circular })[0]!.value).toBe('an object that contains itself');
  expect(mistakesIn({ x: 1n })[0]!.value).toBe('"1n"');
  expect(mistakesIn({ x: Symbol('s') })[0]!.value).toBe('Symbol(s)');
  expect(mistakesIn({ x: () => 1 })[0]!.value).toBe('a function');
  expect(mistakesIn({ x: 'y'.repeat(1_000) })[0]!.value.length).toBeLessThan(100);
  const trap = Object.defineProperty({}, 'web', {
    enumerable: true,
    get: () => {
      throw new Error('no entry');
    },
  });
  expect(mistakesIn(trap)[0]!.allowed).toContain('no entry');
});

describe('properties', () => {
  const junk = fc.oneof(
    fc.anything({ withBigInt: true, withDate: true, withMap: true, withNullPrototype: true }),
    fc.constantFrom(Symbol('x'), () => 1, Number.NaN),
  );
  /** Paths of all keys in the complete topology. */
  const paths = ['', ...keysOf(COMPLETE)];

  function keysOf(value: object, parent = ''): string[] {
    return Object.entries(value).flatMap(([key, below]) => {
      const path = parent + key;
      return typeof below === 'object' ? [path, ...keysOf(below, `${path}.`)] : [path];
    });
  }

  /** The complete topology with something else at a path, or with a new key there. */
  function mutilate(topology: Topology, path: string, value: unknown): unknown {
    const copy: unknown = structuredClone(topology);
    if (path === '') return value;
    const keys = path.split('.');
    let at = copy as Record<string, unknown>;
    for (const key of keys.slice(0, -1)) {
      if (typeof at[key] !== 'object' || at[key] === null) return copy;
      at = at[key] as Record<string, unknown>;
    }
    at[keys.at(-1)!] = value;
    return copy;
  }

  test('a topology that was mutilated is valid or an InvalidTopology, never anything else', () => {
    const place = fc.oneof(
      fc.constantFrom(...paths),
      fc.string().map(key => `web.${key}`),
      fc.string(),
    );
    fc.assert(
      fc.property(place, junk, (path, value) => {
        try {
          validateTopology(mutilate(COMPLETE, path, value), FILE);
        } catch (error) {
          expect(error).toBeInstanceOf(InvalidTopology);
          expect((error as InvalidTopology).mistakes.length).toBeGreaterThan(0);
          expect(() => JSON.stringify(error)).not.toThrow();
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test('what passes once passes again, unchanged', () => {
    fc.assert(
      fc.property(fc.constantFrom(...paths), junk, (path, value) => {
        let once: Topology;
        try {
          once = validateTopology(mutilate(COMPLETE, path, value), FILE);
        } catch {
          return;
        }
        expect(validateTopology(once, FILE)).toEqual(once);
      }),
    );
  });

  test('an unknown key is never overlooked', () => {
    const known = ['name', 'web', 'database', 'logs'];
    fc.assert(
      fc.property(
        fc.string().filter(key => !known.includes(key) && key !== '__proto__'),
        key => {
          expect(mistakesIn({ ...COMPLETE, [key]: 1 }).map(({ path }) => path)).toEqual([
            key || expect.anything(),
          ]);
        },
      ),
    );
  });
});

test('a copied column says from where and by which way, and is of a database that Banyan runs', () => {
  const denormalize = { 'articles.author_name': 'users.name via author_id' };
  expect(validateTopology({ database: { denormalize } }, FILE)).toEqual({
    database: { denormalize },
  });
  const paths = (database: unknown) => mistakesIn({ database }).map(({ path }) => path);
  expect(paths({ denormalize: { 'articles.author_name': 'users.name' } })).toEqual([
    'database.denormalize.articles.author_name',
  ]);
  expect(paths({ url: 'postgres://u:p@h/x', denormalize })).toEqual(['database.denormalize']);
});
