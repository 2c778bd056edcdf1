/**
 * What the cache brings the reference application: the same mix of pages, API reads and a few writes, without a cache, with each
 * server's own memory, and with a Redis besides, in one run on one deployment.
 *
 *     node bench/conduit-cache.ts [--users 500] [--seconds 10] [--connections 16] [--writes 0.01]
 *
 * Requests per second with their p50 and p99, and transactions per second on the database (a read by itself is one). Articles, people and tags
 * are asked for as people do, by Zipf's law. The load generator shares the machine with everything else.
 */
import { writeFile } from 'node:fs/promises';
import { Agent, request as httpRequest } from 'node:http';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { Topology } from 'banyan';
import { randomOf } from '../examples/conduit/seed/random.ts';
import { Zipf } from '../examples/conduit/seed/zipf.ts';
import { deployExample, type Site } from '../test/support/deployment.ts';

const { values } = parseArgs({
  options: {
    users: { type: 'string', default: '500' },
    seconds: { type: 'string', default: '10' },
    connections: { type: 'string', default: '16' },
    writes: { type: 'string', default: '0.01' },
  },
});
const seconds = Number(values.seconds);
const connections = Number(values.connections);
const PASSWORD = 'conduit-demo';

const RUNGS: [name: string, topology: Topology][] = [
  ['no cache', {}],
  ["each server's memory", { cache: true }],
  ['and a Redis', { cache: { servers: 1, memoryMb: 64 } }],
];

interface Measured {
  requests: number;
  failed: number;
  perSecond: number;
  p50: number;
  p99: number;
  transactionsPerSecond: number;
}

const agent = new Agent({ keepAlive: true, maxSockets: connections });
const site = await deployExample('conduit', {});
try {
  const { output, code } = await site.banyan(['run', 'node', 'seed.ts', '--users', values.users!]);
  if (code !== 0) throw new Error(output);
  const pool = site.pool({ max: 1 });
  const named = async (text: string) =>
    (await pool.query<{ name: string }>(text)).rows.map(({ name }) => name);
  const slugs = await named('select slug as name from articles order by favorites_count desc');
  const people = await named('select username as name from users order by followers_count desc');
  const tags = await named('select name from tags order by articles_count desc limit 50');
  const [email] = await named('select email as name from users order by id limit 1');
  const token = await logIn(site, email!);

  console.log(
    `${slugs.length} articles of ${people.length} people; ${connections} requests at a time, ${seconds} s each; ${Number(values.writes) * 100} % writes; ${availableParallelism()} processors for everything\n`,
  );
  console.log(
    `${''.padEnd(24)}${'requests/s'.padStart(11)}${'p50'.padStart(10)}${'p99'.padStart(10)}${'transactions/s'.padStart(16)}${'per request'.padStart(13)}`,
  );
  for (const [name, topology] of RUNGS) {
    const config = path.join(site.folder, 'banyan.config.ts');
    await writeFile(config, `export default ${JSON.stringify(topology)};\n`);
    await site.ok('apply', '--yes');
    const mix = mixOf({ slugs, people, tags, token });
    await measure(site, mix, Math.min(3, seconds));
    const found = await measure(site, mix, seconds);
    const ratio = (found.transactionsPerSecond / found.perSecond).toFixed(2);
    console.log(
      `${name.padEnd(24)}${found.perSecond.toFixed(0).padStart(11)}${ms(found.p50)}${ms(found.p99)}${found.transactionsPerSecond.toFixed(0).padStart(16)}${ratio.padStart(13)}${found.failed > 0 ? `  ${found.failed} failed` : ''}`,
    );
  }
} finally {
  agent.destroy();
  await site.remove();
}

interface Request {
  readonly method: string;
  readonly path: string;
  readonly token?: string;
}

/** What people ask for: 60 % pages, the rest the API; a few favourites. The same order in each run. */
function mixOf({
  slugs,
  people,
  tags,
  token,
}: {
  slugs: string[];
  people: string[];
  tags: string[];
  token: string;
}): () => Request {
  const random = randomOf(7);
  const pick = (from: string[]) => {
    const zipf = new Zipf(from.length, 1);
    return () => encodeURIComponent(from[zipf.sample(random) - 1]!);
  };
  const [slug, person, tag] = [pick(slugs), pick(people), pick(tags)];
  const get = (address: string, own?: string): Request => ({
    method: 'GET',
    path: address,
    ...(own ? { token: own } : {}),
  });
  const reads: [share: number, make: () => Request][] = [
    [0.25, () => get(`/article/${slug()}`)],
    [0.15, () => get('/')],
    [0.1, () => get(`/tag/${tag()}`)],
    [0.1, () => get(`/profile/${person()}`)],
    [0.15, () => get(`/api/articles/${slug()}`, token)],
    [0.1, () => get('/api/articles/feed', token)],
    [0.1, () => get(`/api/articles?author=${person()}`)],
    [0.05, () => get('/api/tags')],
  ];
  return () => {
    if (random() < Number(values.writes)) {
      const method = random() < 0.5 ? 'POST' : 'DELETE';
      return { method, path: `/api/articles/${slug()}/favorite`, token };
    }
    let left = random();
    for (const [share, make] of reads) {
      left -= share;
      if (left <= 0) return make();
    }
    return get('/');
  };
}

async function measure(at: Site, next: () => Request, forSeconds: number): Promise<Measured> {
  const counter = at.pool({ max: 1 });
  const transactions = async () => {
    // Servers tell what they did once a second.
    await delay(1_500);
    const { rows } = await counter.query<{ n: string }>(
      'select xact_commit + xact_rollback as n from pg_stat_database where datname = current_database()',
    );
    return Number(rows[0]!.n);
  };
  const before = await transactions();
  const took: number[] = [];
  let failed = 0;
  const begun = performance.now();
  const end = begun + forSeconds * 1_000;
  const worker = async () => {
    while (performance.now() < end) {
      const at0 = performance.now();
      const status = await send(at, next()).catch(() => 0);
      took.push(performance.now() - at0);
      if (status !== 200) failed++;
    }
  };
  await Promise.all(Array.from({ length: connections }, worker));
  const duration = (performance.now() - begun) / 1_000;
  const after = await transactions();
  took.sort((a, b) => a - b);
  return {
    requests: took.length,
    failed,
    perSecond: took.length / duration,
    p50: took[Math.floor(took.length * 0.5)]!,
    p99: took[Math.floor(took.length * 0.99)]!,
    transactionsPerSecond: (after - before) / duration,
  };
}

function send(at: Site, { method, path: address, token }: Request): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const headers = token ? { authorization: `Token ${token}` } : {};
  httpRequest(at.address + address, { agent, method, headers }, response => {
    response.resume();
    response.on('end', () => resolve(response.statusCode!));
    response.on('error', reject);
  })
    .on('error', reject)
    .end();
  return promise;
}

async function logIn(at: Site, email: string): Promise<string> {
  const response = await fetch(`${at.address}/api/users/login`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ user: { email, password: PASSWORD } }),
  });
  return ((await response.json()) as { user: { token: string } }).user.token;
}

function ms(value: number): string {
  return `${value.toFixed(1)} ms`.padStart(10);
}
