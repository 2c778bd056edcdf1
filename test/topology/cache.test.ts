/** What may be said of the cache in a topology, and what follows from what is left open. */
import { expect, test } from 'vitest';
import { cacheShapeOf, NO_CACHE } from '../../src/operate/cache/shape.ts';
import { cacheWithServers, completeTopology } from '../../src/topology/defaults.ts';
import type { Topology } from '../../src/topology/topology.ts';
import { InvalidTopology, validateTopology } from '../../src/topology/validate.ts';

const FOLDER = {
  path: '/app',
  files: ['server.ts'],
  hasMigrations: false,
  machineMemoryMb: 8_192,
};

const complete = (cache: Topology['cache']) => completeTopology({ cache: cache! }, FOLDER).cache;

function mistakesIn(cache: unknown): [path: string, allowed: string][] {
  try {
    validateTopology({ cache }, 'banyan.config.ts');
    return [];
  } catch (error) {
    if (!(error instanceof InvalidTopology)) throw error;
    return error.mistakes.map(({ path, allowed }) => [path, allowed]);
  }
}

test('nothing said is no cache; `true` is the memory of each server', () => {
  expect(completeTopology({}, FOLDER).cache).toBeUndefined();
  expect(complete(false)).toBeUndefined();
  expect(complete(true)).toMatchObject({ servers: 0, replicas: 0, invalidators: 1 });
  expect(cacheShapeOf(undefined)).toEqual(NO_CACHE);
  expect(cacheShapeOf(complete(true))).toMatchObject({ kind: 'memory' });
});

test('an object is one Redis; from three on a cluster with a replica each', () => {
  expect(complete({})).toMatchObject({ servers: 1, replicas: 0, memoryMb: 409 });
  expect(complete({ servers: 3 })).toMatchObject({ servers: 3, replicas: 1, memoryMb: 68 });
  expect(cacheShapeOf(complete({ servers: 3 }))).toMatchObject({ kind: 'cluster' });
  expect(cacheWithServers(complete({})!, 3)).toMatchObject({ servers: 3, replicas: 1 });
  expect(cacheWithServers(complete({ servers: 5, replicas: 2 })!, 1).replicas).toBe(0);
});

test('of a Redis that is named, the shape tells the place and not the password', () => {
  const shape = cacheShapeOf(complete({ url: 'rediss://user:secret@cache.example.com' }));
  expect(shape).toMatchObject({
    kind: 'external',
    external: { host: 'cache.example.com', port: 6379, tls: true },
  });
  expect(JSON.stringify(shape)).not.toContain('secret');
  const other = cacheShapeOf(complete({ url: 'rediss://user:other@cache.example.com' }));
  expect(other.external!.credentials).not.toBe(shape.external!.credentials);
});

test('mistakes are told with what is right', () => {
  expect(mistakesIn('yes')).toEqual([
    ['cache', 'true, false, or an object { … } such as { servers: 1 }'],
  ]);
  expect(mistakesIn({ servers: 2 })[0]).toEqual([
    'cache.servers',
    '0, 1, or a whole number from 3 to 16: of two nobody could tell which is lost',
  ]);
  expect(mistakesIn({ servers: 1, replicas: 1 })[0]![0]).toBe('cache.replicas');
  expect(mistakesIn({ url: 'redis://h', servers: 3 })[0]![0]).toBe('cache.servers');
  expect(mistakesIn({ url: 'http://h' })[0]![0]).toBe('cache.url');
  expect(mistakesIn({ memory: 5 })[0]![1]).toContain('no such key');
  expect(mistakesIn({ servers: 3, replicas: 2, memoryMb: 64, invalidators: 2 })).toEqual([]);
});

test('a mistake in the URL shows no password', () => {
  try {
    validateTopology({ cache: { url: 'http://user:secret@host' } }, 'banyan.config.ts');
    expect.unreachable();
  } catch (error) {
    expect((error as Error).message).not.toContain('secret');
  }
});
