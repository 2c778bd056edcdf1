/**
 * Jobs per second and the time from publish to start: ours on RabbitMQ, against BullMQ on Redis. Each has one server.
 *
 * What is on disk when a publish resolves:
 * - ours: the message. A quorum queue writes it and calls fdatasync before it confirms; publishes are confirmed, each of them.
 * - `everysec`, as BullMQ is usually run: nothing yet. Redis syncs its append-only file once a second, so that a second of acknowledged
 *   jobs is lost with the machine. It is weaker than ours.
 * - `always`: the job. Redis syncs before it answers.
 *
 *     node --conditions=banyan-source bench/queue-rabbitmq.ts [--rounds 3] [--jobs 20000] [--single 5000] [--idle 100]
 */
import { parseArgs } from 'node:util';
import { Queue, Worker } from 'bullmq';
import { createPool } from '../src/app/database/pool.ts';
import { createQueue } from '../src/app/queue/create-queue.ts';
import { TestPostgres } from '../test/support/postgres.ts';
import { TestRabbitMq } from '../test/support/rabbitmq.ts';
import { TestRedis } from '../test/support/redis.ts';
import {
  CONCURRENCY,
  type Contender,
  compare,
  numbers,
  ownQueue,
  payload,
} from './support/queues.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    jobs: { type: 'string', default: '20000' },
    single: { type: 'string', default: '5000' },
    idle: { type: 'string', default: '100' },
    concurrency: { type: 'string', default: String(CONCURRENCY) },
  },
});
const [rounds, jobs, single, idle, concurrency] = [
  values.rounds,
  values.jobs,
  values.single,
  values.idle,
  values.concurrency,
].map(Number) as [number, number, number, number, number];

async function ours(postgres: TestPostgres, rabbit: TestRabbitMq): Promise<Contender> {
  const pool = createPool({ connectionString: await postgres.database() });
  const open = () => createQueue({ pool }, { env: rabbit.env });
  const contender = ownQueue('banyan on RabbitMQ', open, concurrency, async () => {
    const { rows } = await pool.query(
      `select n_tup_ins::int as n from pg_stat_user_tables where relname = 'delivery'`,
    );
    // What was handed back by a worker that closed, or went there since RabbitMQ was not ready.
    console.log(`${rows[0]!.n} messages of ours were in PostgreSQL`);
    await pool.end();
  });
  // Somebody has subscribed once: from then on messages go over RabbitMQ.
  await (await contender.work(() => {}))();
  return contender;
}

async function bull(redis: TestRedis, appendfsync: string): Promise<Contender> {
  const connection = { host: redis.host, port: redis.port };
  const queue = new Queue('bench', {
    connection,
    defaultJobOptions: { removeOnComplete: true, removeOnFail: true },
  });
  await queue.waitUntilReady();
  return {
    name: `BullMQ (appendfsync ${appendfsync})`,
    publish: (from, count) =>
      count === 1
        ? queue.add('bench', payload(from))
        : queue.addBulk(numbers(from, count).map(n => ({ name: 'bench', data: payload(n) }))),
    work: async handler => {
      const worker = new Worker<{ n: number }>('bench', async ({ data }) => handler(data.n), {
        connection,
        concurrency,
      });
      worker.on('error', error => console.error(error));
      await worker.waitUntilReady();
      return () => worker.close();
    },
    close: () => queue.close(),
  };
}

const redisWith = (appendfsync: string) =>
  TestRedis.start([
    ...['--appendonly', 'yes', '--appendfsync', appendfsync],
    ...['--maxmemory', '0', '--maxmemory-policy', 'noeviction'],
  ]);

const [postgres, rabbit, everysec, always] = await Promise.all([
  TestPostgres.start(),
  TestRabbitMq.start(1),
  redisWith('everysec'),
  redisWith('always'),
]);
const contenders: Contender[] = [];
try {
  contenders.push(await ours(postgres, rabbit));
  contenders.push(await bull(everysec, 'everysec'), await bull(always, 'always'));
  const amounts = { rounds, jobs, single, idle };
  for (const line of await compare(contenders, amounts)) console.log(line);
} finally {
  await Promise.allSettled(contenders.map(contender => contender.close()));
  await Promise.allSettled([postgres, rabbit, everysec, always].map(each => each.remove()));
}
process.exit(0);
