/**
 * A process that moves money between accounts on different shards, from several sessions, and recovers: to be killed.
 *
 *     node transfers.ts <name> <sessions> <accounts a shard> <url of shard 0> <url of shard 1> …
 *
 * It prints what it knows of each transfer: `begun 1-0-7`, then `kept …`, `broken …` (nothing was kept, the error said
 * so) or `unknown …`; and ends with its input. Each transfer writes an entry on each shard that it changes.
 */
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { OutcomeUnknown } from '../../src/app/database/errors.ts';
import { Branch, type ShardPrimary } from '../../src/app/database/shards/two-phase/branch.ts';
import { Coordinator } from '../../src/app/database/shards/two-phase/coordinator.ts';
import { recoverTwoPhase } from '../../src/app/database/shards/two-phase/recover.ts';

const [name = '', sessions = '', accounts = '', ...urls] = process.argv.slice(2);
const DEPLOYMENT = 'bank';

const shards = urls.map((url, index) => {
  const pool = new pg.Pool({
    connectionString: url,
    max: Number(sessions),
    connectionTimeoutMillis: 2_000,
  });
  pool.on('error', () => {});
  pool.on('connect', client => client.on('error', () => {}));
  const primary: ShardPrimary = {
    // As `ShardServers` calls them: what a killed process left is recovered by whoever is there.
    id: `s${index}`,
    open: async () => {
      const client = new pg.Client({
        connectionString: url,
        connectionTimeoutMillis: 2_000,
        query_timeout: 5_000,
      });
      client.on('error', () => {});
      await client.connect();
      return client;
    },
  };
  return { pool, primary };
});

const coordinator = new Coordinator({
  deployment: DEPLOYMENT,
  name,
  prepareTimeoutMs: 3_000,
  finishTimeoutMs: 15_000,
});
const ending = new AbortController();
process.stdin.resume().once('end', () => ending.abort());

const any = (most: number) => Math.floor(Math.random() * most);

async function transfer(id: string): Promise<void> {
  const branches = new Map<number, Branch>();
  const changes = [{ shard: any(shards.length), by: 1 + any(100) }].flatMap(({ shard, by }) => [
    { shard, by },
    { shard: any(shards.length), by: -by },
  ]);
  if (any(4) === 0)
    changes.push({ shard: any(shards.length), by: 5 }, { shard: any(shards.length), by: -5 });
  try {
    for (const { shard, by } of changes) {
      let branch = branches.get(shard);
      if (!branch) {
        const { pool, primary } = shards[shard]!;
        const client = await pool.connect();
        branch = new Branch(primary, client, error => client.release(error));
        branches.set(shard, branch);
        await branch.query('begin');
        await branch.query("set local lock_timeout = '300ms'");
      }
      branch.wrote = true;
      await branch.query('update accounts set balance = balance + $1 where id = $2', [
        by,
        any(Number(accounts)),
      ]);
      await branch.query('insert into entries (transfer, amount) values ($1, $2)', [id, by]);
    }
    await coordinator.commit([...branches.values()]);
  } catch (error) {
    await coordinator.rollBack([...branches.values()]);
    throw error;
  } finally {
    for (const branch of branches.values()) branch.giveBack();
  }
}

async function session(number: number): Promise<void> {
  for (let i = 0; !ending.signal.aborted; i++) {
    const id = `${name}-${number}-${i}`;
    console.log(`begun ${id}`);
    await transfer(id).then(
      () => console.log(`kept ${id}`),
      async error => {
        console.log(
          `${error instanceof OutcomeUnknown ? 'unknown' : 'broken'} ${id} ${error.code}`,
        );
        await delay(20);
      },
    );
  }
}

async function recoverer(): Promise<void> {
  while (!ending.signal.aborted) {
    await recoverTwoPhase(
      shards.map(({ primary }) => primary),
      { deployment: DEPLOYMENT, graceMs: 500, keepDecisionsMs: 1_000 },
    );
    await delay(200);
  }
}

await Promise.all([recoverer(), ...Array.from({ length: Number(sessions) }, (_, i) => session(i))]);
await coordinator.close();
process.exit(0);
