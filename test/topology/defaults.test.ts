import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { connectionsPerServer, TooManyServers } from '../../src/topology/connections.ts';
import {
  type AppFolder,
  completeTopology,
  NoStartCommand,
  NoWorkerCommand,
} from '../../src/topology/defaults.ts';
import type { Topology } from '../../src/topology/topology.ts';
import { validateTopology } from '../../src/topology/validate.ts';

const folder = (over: Partial<AppFolder> = {}): AppFolder => ({
  path: '/srv/my app',
  files: ['server.ts'],
  hasMigrations: false,
  machineMemoryMb: 8_192,
  ...over,
});

test('a folder with a package.json alone gets sensible defaults', () => {
  const packageJson = { name: '@acme/Web Shop', scripts: { start: 'node dist/main.js' } };
  expect(completeTopology({}, folder({ packageJson }))).toEqual({
    name: 'web-shop',
    web: {
      command: 'node dist/main.js',
      port: 3000,
      host: '127.0.0.1',
      ready: '/readyz',
      startTimeoutMs: 30_000,
      drainTimeoutMs: 10_000,
      env: {},
      servers: { min: 1, max: 1, target: 0.6, scaleDownAfterMs: 60_000 },
      weights: [],
      maxConcurrency: 256,
      sticky: false,
    },
    database: {
      readers: [],
      port: 0,
      shards: 1,
      tables: {},
      unique: [],
      denormalize: {},
      replicas: 0,
      etcd: 1,
      strict: false,
      memoryMb: 2_048,
      maxConnections: 100,
      settings: {},
    },
    workers: {
      env: {},
      startTimeoutMs: 30_000,
      drainTimeoutMs: 30_000,
      servers: { min: 0, max: 0, depth: 100, ageMs: 10_000, scaleDownAfterMs: 60_000 },
    },
    logs: { maxFileMb: 10, keepFiles: 5 },
  });
});

test('a worker is started by the script of that name, else by the file, else it is said what to add', () => {
  const workers = { servers: 2 };
  const command = (over: Partial<AppFolder>) =>
    completeTopology({ workers }, folder(over)).workers.command;
  const packageJson = { scripts: { worker: 'node jobs.js' } };
  expect(command({ packageJson, files: ['server.ts', 'worker.ts'] })).toBe('node jobs.js');
  expect(command({ files: ['server.ts', 'worker.js', 'worker.ts'] })).toBe('node worker.ts');
  expect(() => command({})).toThrow(NoWorkerCommand);
  expect(() => command({})).toThrow(/Add a `worker.ts`/);
  // Who has none needs none.
  expect(completeTopology({}, folder()).workers.servers).toMatchObject({ min: 0, max: 0 });
});

test('what the topology says wins over every default', () => {
  const web = {
    command: 'x',
    port: 1,
    host: 'h',
    ready: '/r',
    startTimeoutMs: 1,
    drainTimeoutMs: 1,
    env: { A: 'b' },
    servers: { min: 2, max: 3, target: 0.5, scaleDownAfterMs: 1 },
    weights: [1, 2],
    maxConcurrency: 1,
    sticky: true,
    build: 'make',
  };
  const balancer = {
    algorithm: 'leastconn' as const,
    addresses: ['a', 'b'],
    virtualAddress: 'c',
    tls: { port: 1, certificate: 'f', redirect: true },
    rateLimit: { requests: 1, windowSeconds: 1 },
    maxBodyMb: 1,
    responseTimeoutMs: 1,
    checkTimeoutMs: 1,
    queueTimeoutMs: 1,
    tunnelTimeoutMs: 1,
  };
  const database = {
    url: 'postgres://h/x',
    readers: ['h:1'],
    shards: 3,
    tables: {},
    unique: [],
    denormalize: {},
    replicas: 0,
    etcd: 3 as const,
    strict: true,
    port: 1,
    migrate: 'm',
    memoryMb: 64,
    maxConnections: 10,
    settings: { jit: false },
  };
  const workers = {
    command: 'y',
    env: { C: 'd' },
    startTimeoutMs: 2,
    drainTimeoutMs: 3,
    memoryMb: 64,
    servers: { min: 0, max: 2, depth: 1, ageMs: 100, scaleDownAfterMs: 1 },
  };
  const logs = { maxFileMb: 1, keepFiles: 1 };
  const topology = { name: 'n', web, balancer, database, workers, logs };
  expect(completeTopology(topology, folder({ hasMigrations: true }))).toEqual(topology);
});

test('one server needs no balancer, several have one on the address of the web tier', () => {
  const complete = (web: Topology['web']) =>
    completeTopology({ web: { command: 'x', ...web } }, folder({}));
  expect(complete({}).balancer).toBeUndefined();
  expect(complete({ servers: 3, host: '0.0.0.0' })).toMatchObject({
    web: { servers: { min: 3, max: 3 } },
    balancer: { algorithm: 'roundrobin', addresses: ['0.0.0.0'] },
  });
  expect(complete({ servers: { min: 1, max: 2 } }).balancer).toBeDefined();
});

test('connections are shared out, some kept back; too many servers are an error', () => {
  expect(connectionsPerServer(1, 100)).toBe(20);
  expect(connectionsPerServer(9, 100)).toBe(10);
  expect(connectionsPerServer(45, 100)).toBe(2);
  expect(() => connectionsPerServer(46, 100)).toThrow(TooManyServers);
  expect(connectionsPerServer(9, 100, { workers: 6 })).toBe(8);
  expect(() => connectionsPerServer(19, 100, { workers: 18 })).toThrow(/at least 102 connections/);
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 500 }),
      fc.integer({ min: 10, max: 2_000 }),
      fc.integer({ min: 0, max: 500 }),
      (servers, max, some) => {
        const workers = Math.min(some, servers);
        try {
          const share = connectionsPerServer(servers, max, { workers });
          expect(share * servers + 3 * workers).toBeLessThan(max);
        } catch (error) {
          expect(error).toBeInstanceOf(TooManyServers);
        }
      },
    ),
  );
});

test('a table and a column without a schema are of `public`', () => {
  const { database } = completeTopology(
    {
      database: {
        shards: 4,
        tables: {
          posts: { shardBy: 'author_id' },
          'app.tags': 'reference',
          users: { shardBy: 'id' },
        },
        unique: ['users.email', 'public.posts.slug'],
      },
    },
    folder({}),
  );
  expect(database).toMatchObject({
    shards: 4,
    tables: {
      'public.posts': { kind: 'sharded', key: 'author_id' },
      'app.tags': { kind: 'reference' },
      'public.users': { kind: 'sharded', key: 'id' },
    },
    unique: ['public.users.email', 'public.posts.slug'],
  });
});

test('servers of several shards share the memory of the one machine', () => {
  const of = (database: Topology['database']) =>
    completeTopology({ database: { ...database } }, folder({ machineMemoryMb: 16_384 })).database
      .memoryMb;
  expect(of({})).toBe(2_048);
  expect(of({ shards: 4 })).toBe(1_024);
  expect(of({ shards: 4, replicas: 1 })).toBe(512);
});

test.each([
  [{ scripts: { start: 'tsx app.ts' }, main: 'server.ts' }, ['server.ts'], 'tsx app.ts'],
  // What starts Banyan would start itself for ever.
  [{ scripts: { start: 'banyan up' } }, ['server.ts'], 'node server.ts'],
  [{ scripts: { start: 'npx banyan up' } }, ['server.ts'], 'node server.ts'],
  [{ scripts: { start: 'node bin/banyan.js up' } }, ['server.ts'], 'node server.ts'],
  [{ scripts: { start: 'node banyan-demo/main.js' } }, ['server.ts'], 'node banyan-demo/main.js'],
  [{ main: './main.js' }, ['main.js', 'server.ts'], 'node ./main.js'],
  [{ main: 'gone.js' }, ['index.js', 'server.js'], 'node server.js'],
  [{ scripts: null, main: 5 }, ['index.mjs'], 'node index.mjs'],
  [undefined, ['index.ts', 'server.ts'], 'node server.ts'],
])('%j with %j starts with `%s`', (packageJson, files, command) => {
  const app = folder({ packageJson: packageJson as AppFolder['packageJson'], files });
  expect(completeTopology({}, app).web.command).toBe(command);
});

test('a main file with a strange name reaches node as it is', () => {
  const main = `it's $(a) "file".js`;
  const { command } = completeTopology({}, folder({ packageJson: { main }, files: [main] })).web;
  const shown = execFileSync('/bin/sh', ['-c', `printf %s ${command.slice('node '.length)}`]);
  expect(shown.toString()).toBe(main);
});

test('a folder that tells nothing is an error with a remedy', () => {
  expect(() => completeTopology({}, folder({ files: ['README.md'] }))).toThrow(NoStartCommand);
});

test('migrations are found, unless the topology has a command of its own', () => {
  const app = folder({ hasMigrations: true });
  expect(completeTopology({}, app).database.migrations).toBe('migrations');
  expect(completeTopology({ database: { migrate: 'x' } }, app).database).not.toHaveProperty(
    'migrations',
  );
  expect(completeTopology({ database: { migrations: 'db' } }, app).database.migrations).toBe('db');
});

test.each([
  [256, 128],
  [2_048, 512],
  [65_536, 2_048],
])('a machine of %i MB gives PostgreSQL %i MB', (machineMemoryMb, memoryMb) => {
  expect(completeTopology({}, folder({ machineMemoryMb })).database.memoryMb).toBe(memoryMb);
});

test('property: whatever the folder is called, the defaults are a valid topology', () => {
  const name = fc.oneof(
    fc.string({ unit: 'grapheme' }),
    fc.constantFrom(undefined, 7, null, '---'),
  );
  fc.assert(
    fc.property(name, fc.string(), fc.nat(1_000_000), (packageName, path, machineMemoryMb) => {
      const app = folder({ packageJson: { name: packageName }, path: `/${path}`, machineMemoryMb });
      const complete = completeTopology({}, app);
      expect(validateTopology(complete, 'defaults')).toEqual(complete);
    }),
  );
});

test('what a column is a copy of is read, and named in full', () => {
  const { database } = completeTopology(
    { database: { denormalize: { 'articles.author_name': 'users.name via author_id' } } },
    folder({}),
  );
  expect(database.denormalize).toEqual({
    'public.articles.author_name': { from: 'public.users.name', via: 'author_id' },
  });
});
