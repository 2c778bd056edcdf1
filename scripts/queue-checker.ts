/**
 * The long run of the queue's checker:
 *
 *     node --conditions=banyan-source scripts/queue-checker.ts --messages 100000 [--producers 8] [--rabbitmq] [--replicated] [--seed 7]
 *
 * With `--rabbitmq` plain messages go over a cluster of three, whose nodes are killed one at a time; with `--replicated` the database is
 * replicated, and its primary is killed. With `--broken` a build without the lease's guard, which it has to find.
 */
import { parseArgs } from 'node:util';
import { TestPostgres } from '../test/support/postgres.ts';
import { checkQueue } from '../test/support/queue-checker.ts';
import { plainGround, type QueueGround, replicatedGround } from '../test/support/queue-grounds.ts';
import { TestRabbitMq } from '../test/support/rabbitmq.ts';

const { values } = parseArgs({
  options: {
    messages: { type: 'string', default: '100000' },
    workers: { type: 'string', default: '3' },
    producers: { type: 'string', default: '2' },
    every: { type: 'string', default: '1500' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    rabbitmq: { type: 'boolean', default: false },
    replicated: { type: 'boolean', default: false },
    broken: { type: 'boolean', default: false },
  },
});

/** Mulberry32 (Tommy Ettinger): the same faults in the same order for the same seed, if not at the same moments. */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const servers: { remove(): Promise<void> }[] = [];
async function removeAll(): Promise<void> {
  for (const server of servers.splice(0).reverse()) await server.remove();
}
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => void removeAll().finally(() => process.exit(1)));
}

async function prepare(): Promise<QueueGround> {
  if (values.replicated) {
    const ground = await replicatedGround({ withRabbitMq: values.rabbitmq });
    servers.push(ground);
    return ground;
  }
  const postgres = await TestPostgres.start();
  servers.push(postgres);
  if (!values.rabbitmq) return plainGround(postgres);
  const rabbit = await TestRabbitMq.start(3);
  servers.push(rabbit);
  return plainGround(postgres, { rabbit });
}

try {
  const ground = await prepare();
  console.log(`seed ${values.seed}`);
  const report = await checkQueue(ground, {
    messages: Number(values.messages),
    workers: Number(values.workers),
    producers: Number(values.producers),
    faultEveryMs: Number(values.every),
    unguarded: values.broken,
    random: randomFrom(Number(values.seed)),
    log: line => process.stdout.write(process.stdout.isTTY ? `\r${line}   ` : `${line}\n`),
  });
  const { lost, twice, ofRolledBack, outOfOrder, plain } = report;
  console.log('\n', report);
  const wrong = lost + twice + ofRolledBack + outOfOrder + plain.lost + plain.twice + plain.untried;
  process.exitCode = wrong > 0 ? 1 : 0;
} finally {
  await removeAll();
}
