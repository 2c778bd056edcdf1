/** Money moves between shards while clients, recoverers and primaries are killed: the sum never changes. */
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { recoverTwoPhase } from '../../../../src/app/database/shards/two-phase/recover.ts';
import { REPOSITORY } from '../../../support/deployment.ts';
import { ShardServers } from '../../../support/shard-servers.ts';
import { until } from '../../../support/until.ts';

const SHARDS = 3;
const SESSIONS = 5;
const ACCOUNTS = 20;
const BALANCE = 1_000;
const ROUNDS = 2;

let shards: ShardServers;
const clients: TransferClient[] = [];
/** What the clients said of each transfer last. */
const known = new Map<string, string>();

class TransferClient {
  static #started = 0;
  readonly process: ChildProcess;
  readonly ended: Promise<unknown>;
  kept = 0;

  constructor() {
    const name = `client${TransferClient.#started++}`;
    this.process = spawn(
      process.execPath,
      [
        path.join(REPOSITORY, 'test/support/transfers.ts'),
        name,
        String(SESSIONS),
        String(ACCOUNTS),
        ...shards.urls,
      ],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    );
    this.process.stdin!.on('error', () => {});
    const lines = createInterface({ input: this.process.stdout! });
    lines.on('line', line => {
      const [state = '', id = ''] = line.split(' ');
      known.set(id, state);
      if (state === 'kept') this.kept++;
    });
    this.ended = new Promise(resolve => lines.once('close', resolve));
  }

  /** It gets something done. */
  async works(): Promise<void> {
    const before = this.kept;
    await until(() => this.kept >= before + 10, { what: 'transfers are made', timeoutMs: 60_000 });
  }
}

beforeAll(async () => {
  shards = await ShardServers.start(SHARDS, { servers: SHARDS });
  await shards.everywhere(`
    create table accounts (id int primary key, balance bigint not null);
    create table entries (transfer text not null, amount bigint not null);
    insert into accounts select i, ${BALANCE} from generate_series(0, ${ACCOUNTS - 1}) i`);
});
afterAll(async () => {
  for (const client of clients) client.process.kill('SIGKILL');
  await shards?.remove();
});

test('nothing is lost, doubled or torn, and nothing is left prepared', {
  timeout: 240_000,
}, async () => {
  clients.push(new TransferClient(), new TransferClient());
  await Promise.all(clients.map(client => client.works()));
  for (let round = 0; round < ROUNDS; round++) {
    for (const server of shards.servers) {
      await server.kill();
      // It is away, and with it what it had prepared; a client, with its recoverer, goes meanwhile.
      const killed = clients.shift()!;
      killed.process.kill('SIGKILL');
      clients.push(new TransferClient());
      await server.start();
      await killed.ended;
      await Promise.all(clients.map(client => client.works()));
    }
  }
  for (const client of clients) client.process.stdin!.end();
  await Promise.all(clients.map(client => client.ended));

  await until(
    async () => {
      const { away, strangers } = await recoverTwoPhase(shards.primaries, {
        deployment: 'bank',
        graceMs: 0,
        keepDecisionsMs: 0,
      });
      if (strangers.length > 0) throw new Error(`of shards that nobody knows: ${strangers}`);
      // A shard's decisions are dropped once the others' branches have ended, so perhaps in the next round.
      const left = await shards.everywhere(
        "select from banyan.decisions where outcome = 'committed'",
      );
      const decisions = left.map(({ rowCount }) => rowCount);
      const prepared = (await shards.prepared()).flat();
      if (away.size > 0 || prepared.length > 0 || decisions.some(count => count !== 0)) {
        throw new Error(JSON.stringify({ away: [...away], prepared, decisions }));
      }
      return true;
    },
    { what: 'nothing is left' },
  );
  const sums = await shards.everywhere('select sum(balance)::int as sum from accounts');
  expect(sums.reduce((total, { rows }) => total + rows[0].sum, 0)).toBe(
    SHARDS * ACCOUNTS * BALANCE,
  );

  const entries = (await shards.everywhere('select transfer, amount::int from entries')).flatMap(
    ({ rows }) => rows,
  );
  const amounts = new Map<string, number[]>();
  for (const { transfer, amount } of entries) {
    amounts.set(transfer, [...(amounts.get(transfer) ?? []), amount]);
  }
  const wrong: string[] = [];
  for (const [id, parts] of amounts) {
    const isWhole = parts.length % 2 === 0 && parts.reduce((a, b) => a + b, 0) === 0;
    if (!isWhole) wrong.push(`torn: ${id} ${parts}`);
    if (known.get(id) === 'broken') wrong.push(`there although it was said to be broken: ${id}`);
  }
  const of = (state: string) => [...known].filter(([, last]) => last === state).map(([id]) => id);
  for (const id of of('kept')) if (!amounts.has(id)) wrong.push(`lost: ${id}`);
  expect(wrong).toEqual([]);
  expect(of('kept').length).toBeGreaterThan(100);
  console.log(
    `kept ${of('kept').length}, broken ${of('broken').length}, unknown ${of('unknown').length}, cut off ${of('begun').length}`,
  );
});
