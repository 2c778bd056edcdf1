import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type AppFolder, completeTopology, NoStartCommand } from '../../src/topology/defaults.ts';
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
    },
    database: { port: 0, memoryMb: 2_048, maxConnections: 100, settings: {} },
    logs: { maxFileMb: 10, keepFiles: 5 },
  });
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
  };
  const database = {
    url: 'postgres://h/x',
    port: 1,
    migrate: 'm',
    memoryMb: 64,
    maxConnections: 10,
    settings: { jit: false },
  };
  const topology = { name: 'n', web, database, logs: { maxFileMb: 1, keepFiles: 1 } };
  expect(completeTopology(topology, folder({ hasMigrations: true }))).toEqual(topology);
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
