/** Real Redis servers are made into clusters of any form, from any form. */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ENGINES } from '../../src/engines/engines.ts';
import { prepareRedis, type RedisNode } from '../../src/engines/redis.ts';
import { withRedis } from '../../src/engines/redis-client.ts';
import {
  assignReplicas,
  chooseMasters,
  parseClusterNodes,
  partsOf,
  RedisCluster,
  SLOTS,
} from '../../src/engines/redis-cluster.ts';
import { parseTexts } from '../../src/engines/redis-question.ts';
import { freePort } from '../../src/machines/free-port.ts';
import { LocalMachine } from '../../src/machines/local.ts';
import { temporaryFolder } from '../support/deployment.ts';
import { until } from '../support/until.ts';

const PASSWORD = 'a-password';
const HOST = '127.0.0.1';

let folder: string;
let machine: LocalMachine;
const nodes = new Map<string, RedisNode>();

async function add(name: string): Promise<void> {
  const node = { name, host: HOST, port: await freePort(HOST), busPort: await freePort(HOST) };
  const options = { node, password: PASSWORD, memoryMb: 32, labels: {}, account: undefined };
  await machine.start(await prepareRedis({ ...options, folder: path.join(folder, name) }));
  nodes.set(name, node);
}

async function arrange(names: string[], masters: number, leaving: string[] = []): Promise<void> {
  const all = [...names, ...leaving].map(name => nodes.get(name)!);
  await RedisCluster.with(all, PASSWORD, cluster => cluster.arrange(masters, leaving));
}

/** As one of them sees it. */
async function seenBy(name: string) {
  const text = await withRedis({ ...nodes.get(name)!, password: PASSWORD }, redis =>
    redis.sendCommand(['CLUSTER', 'NODES']),
  );
  const seen = parseClusterNodes(String(text));
  const masters = seen.filter(({ slots }) => slots.length > 0);
  return {
    known: seen.length,
    slots: masters
      .flatMap(({ slots }) => slots)
      .reduce((sum, [from, to]) => sum + to - from + 1, 0),
    masters: masters.length,
    replicasOf: masters.map(({ id }) => seen.filter(({ masterId }) => masterId === id).length),
  };
}

beforeAll(async () => {
  folder = temporaryFolder();
  machine = new LocalMachine({
    recordsFolder: path.join(folder, 'records'),
    logFolder: path.join(folder, 'logs'),
    logLimits: { maxFileMb: 1, keepFiles: 1 },
    engines: ENGINES,
  });
  for (let number = 1; number <= 6; number++) await add(`cache-${number}`);
}, 60_000);

afterAll(async () => {
  await machine.stopAll();
  await rm(folder, { recursive: true, force: true });
});

test('six become three parts with a replica each; nodes come and go; a lost master’s part is not lost', async () => {
  const six = ['cache-1', 'cache-2', 'cache-3', 'cache-4', 'cache-5', 'cache-6'];
  await arrange(six, 3);
  expect(await seenBy('cache-5')).toEqual({
    known: 6,
    slots: SLOTS,
    masters: 3,
    replicasOf: [1, 1, 1],
  });
  // Done already: done again without harm.
  await arrange(six, 3);

  await add('cache-7');
  await add('cache-8');
  await arrange([...six, 'cache-7', 'cache-8'], 4);
  expect(await seenBy('cache-8')).toEqual({
    known: 8,
    slots: SLOTS,
    masters: 4,
    replicasOf: [1, 1, 1, 1],
  });

  const rest = six.slice(2);
  await arrange([...rest, 'cache-7', 'cache-8'], 3, ['cache-1', 'cache-2']);
  expect(await seenBy('cache-7')).toMatchObject({ known: 6, slots: SLOTS, masters: 3 });

  // A master that is gone for good, its copy with it.
  await machine.stop('cache-3');
  await machine.stop('cache-4');
  await add('cache-9');
  await add('cache-10');
  const last = ['cache-5', 'cache-6', 'cache-7', 'cache-8', 'cache-9', 'cache-10'];
  await until(() => arrange(last, 3).then(() => true), {
    what: 'the cluster is whole again',
    timeoutMs: 60_000,
  });
  expect(await seenBy('cache-10')).toEqual({
    known: 6,
    slots: SLOTS,
    masters: 3,
    replicasOf: [1, 1, 1],
  });
}, 180_000);

test('the parts are all slots, each once, and equal but for one', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 64 }), count => {
      const parts = partsOf(count);
      const sizes = parts.map(([from, to]) => to - from + 1);
      expect(parts[0]![0]).toBe(0);
      expect(parts.at(-1)![1]).toBe(SLOTS - 1);
      for (let i = 1; i < count; i++) expect(parts[i]![0]).toBe(parts[i - 1]![1] + 1);
      expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
    }),
  );
});

test('who holds slots stays a master while masters are wanted', () => {
  const node = (name: string, slots: [number, number][], isMaster = true) => ({
    name,
    isMaster,
    slots,
  });
  const nodes = [
    node('a', [], false),
    node('b', [[8_000, 16_383]]),
    node('c', [[0, 7_999]]),
    node('d', []),
  ];
  expect(chooseMasters(nodes, 3)).toEqual(['c', 'b', 'd']);
  expect(chooseMasters(nodes, 2)).toEqual(['c', 'b']);
});

test('replicas stay with their masters, and each master has as many as the others', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 5 }),
      fc.array(fc.option(fc.integer({ min: 0, max: 6 }), { nil: undefined }), { maxLength: 12 }),
      (masterCount, wishes) => {
        const masters = Array.from({ length: masterCount }, (_, index) => `m${index}`);
        const replicas = wishes.map((of, index) => ({
          name: `r${index}`,
          of: of === undefined ? undefined : `m${of}`,
        }));
        const assigned = assignReplicas(masters, replicas);
        expect(assigned.size).toBe(replicas.length);
        const counts = masters.map(
          master => [...assigned.values()].filter(each => each === master).length,
        );
        expect(Math.max(...counts)).toBeLessThanOrEqual(Math.ceil(replicas.length / masterCount));
      },
    ),
  );
});

test('an answer that comes in pieces is taken when it is whole', () => {
  const whole = Buffer.from('+OK\r\n$5\r\nh\r\nlo\r\n');
  for (let end = 0; end < whole.length; end++) {
    expect(parseTexts(whole.subarray(0, end)).length).toBe(end < 5 ? 0 : 1);
  }
  expect(parseTexts(whole)).toEqual(['OK', 'h\r\nlo']);
  expect(() => parseTexts(Buffer.from('-WRONGPASS no\r\n'))).toThrow('WRONGPASS');
});
