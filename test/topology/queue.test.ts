/** What the topology says of workers and the queue: mistakes are told with what would be right. */
import { expect, test } from 'vitest';
import { completeTopology } from '../../src/topology/defaults.ts';
import { InvalidTopology, validateTopology } from '../../src/topology/validate.ts';

function mistake(input: unknown): string {
  try {
    validateTopology(input, 'banyan.config.ts');
  } catch (error) {
    if (error instanceof InvalidTopology) return error.message;
    throw error;
  }
  return '';
}

test.each([
  [
    { workers: { servers: { min: 3, max: 2 } } },
    /workers.servers.max = 2: expected at least `min`/,
  ],
  [{ workers: { servers: -1 } }, /workers.servers = -1: expected a whole number from 0/],
  [{ workers: { comand: 'x' } }, /Did you mean `workers.command`/],
  [{ workers: { env: { PORT: '1' } } }, /this one Banyan sets itself/],
  [{ workers: 2 }, /an object \{ … \}, such as \{ servers: 2 \}/],
  [{ queue: { servers: 2 } }, /1 or 3: of two neither could go on alone/],
  [{ queue: 'redis' }, /'postgresql', or an object/],
  [{ queue: { url: 'http://h' } }, /amqp:\/\/user:password@host:5672/],
  [{ queue: { url: 'amqp://h', servers: 3 } }, /no `servers` beside `url`/],
])('%j is a mistake', (input, expected) => {
  expect(mistake(input)).toMatch(expected);
});

test('a queue in PostgreSQL is what saying nothing is; RabbitMQ has its defaults', () => {
  const folder = {
    path: '/app',
    files: ['server.ts'],
    hasMigrations: false,
    machineMemoryMb: 16_000,
  };
  expect(completeTopology({ queue: 'postgresql' }, folder).queue).toBeUndefined();
  expect(completeTopology({ queue: { servers: 3 } }, folder).queue).toEqual({
    servers: 3,
    memoryMb: 333,
    freeDiskMb: 200,
  });
});
