/**
 * What a balancer costs and what more servers bring: the same small application, in one run, behind each
 * of these in turn, over and over:
 *
 *     one bare server · Banyan with two servers · node:cluster with two workers · PM2 with two
 *
 *     node bench/web-tier.ts [--rounds 3] [--seconds 3] [--without-pm2]
 *
 * Takes about three minutes with the defaults, and ends whatever it started. PM2 is installed into a
 * folder of its own for the run.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { freePort } from '../src/machines/free-port.ts';
import { siteOf } from '../test/support/deployment.ts';
import { until } from '../test/support/until.ts';
import { type Measured, middle, wrk } from './support/wrk.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '3' },
    'without-pm2': { type: 'boolean', default: false },
  },
});
const rounds = Number(values.rounds);
const seconds = Number(values.seconds);

/** Enough that every server always has something to do, few enough that nobody waits long. */
const CONNECTIONS = 32;
const WORKERS = 2;

const site = await siteOf({
  'package.json': JSON.stringify({ name: 'bench', type: 'module' }),
  'migrations/001.sql': `
    create table articles (id int primary key, title text not null, body text not null);
    insert into articles select n, 'Title ' || n, repeat('word ', 40) from generate_series(1, 1000) n;`,
  'banyan.config.ts': `export default { web: { command: 'node server.js', servers: ${WORKERS} } };`,
  'server.js': `
    import { createServer } from 'node:http';
    import pg from 'pg';
    const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 10 });
    createServer(async (req, res) => {
      if (req.url !== '/articles') return res.end('hello');
      const first = 1 + Math.floor(Math.random() * 990);
      const { rows } = await pool.query({
        name: 'articles',
        text: 'select id, title, body from articles where id >= $1 order by id limit 10',
        values: [first],
      });
      res.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(rows));
    }).listen(Number(process.env.PORT), '127.0.0.1');`,
  'cluster.js': `
    import cluster from 'node:cluster';
    if (cluster.isPrimary) for (let i = 0; i < ${WORKERS}; i++) cluster.fork();
    else await import('./server.js');`,
});

interface Target {
  name: string;
  origin: string;
  stop: () => Promise<unknown> | unknown;
}

const targets: Target[] = [];
try {
  await site.up();
  targets.push(
    await started('one bare server', 'server.js'),
    { name: `Banyan: balancer + ${WORKERS}`, origin: site.address, stop: () => {} },
    await started(`node:cluster, ${WORKERS} workers`, 'cluster.js'),
  );
  if (!values['without-pm2']) targets.push(await startedByPm2());

  console.log(
    `${availableParallelism()} processors for everything: wrk, the balancer, the servers and PostgreSQL share them,
so a second server has little to add here, and what the balancer takes is taken from the servers.
${rounds} rounds of ${seconds} s each, in turn; the middle of each figure.`,
  );
  for (const [what, url] of [
    ['hello', '/'],
    ['ten rows of PostgreSQL as JSON', '/articles'],
  ] as const) {
    await compare(`${what}, ${CONNECTIONS} connections`, url, CONNECTIONS, targets);
  }
  // One request at a time: nobody waits for anybody, so the difference is the way through the balancer.
  await compare('hello, one connection', '/', 1, targets.slice(0, 2));
} finally {
  for (const { stop } of targets) await stop();
  await site.remove();
}

async function compare(title: string, url: string, connections: number, among: Target[]) {
  const results = new Map<Target, Measured[]>(among.map(target => [target, []]));
  for (const { origin } of among) await wrk(origin + url, connections, 1);
  for (let round = 0; round < rounds; round++) {
    for (const [target, list] of results) {
      list.push(await wrk(target.origin + url, connections, seconds));
    }
  }
  console.log(`\n${title}`);
  console.log(`${''.padEnd(28)}requests/s   ratio      p50      p99`);
  const base = middle(results.get(among[0]!)!);
  for (const [{ name }, list] of results) {
    const { requestsPerSecond, p50, p99 } = middle(list);
    const ratio = (requestsPerSecond / base.requestsPerSecond).toFixed(2);
    console.log(
      `${name.padEnd(28)}${requestsPerSecond.toFixed(0).padStart(10)}${ratio.padStart(8)}${ms(p50)}${ms(p99)}`,
    );
  }
}

function ms(value: number): string {
  return `${value.toFixed(2).padStart(6)} ms`;
}

async function started(name: string, script: string): Promise<Target> {
  const port = await freePort();
  const child = spawn(process.execPath, [script], {
    cwd: site.folder,
    env: { ...process.env, PORT: String(port), DATABASE_URL: site.databaseUrl },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const origin = `http://127.0.0.1:${port}`;
  const target = { name, origin, stop: () => ended(child) };
  // Whatever comes, it is stopped.
  await answers(origin).catch(async error => {
    await target.stop();
    throw error;
  });
  return target;
}

async function startedByPm2(): Promise<Target> {
  const folder = await mkdtemp(path.join(tmpdir(), 'banyan-bench-pm2-'));
  const port = await freePort();
  const env = {
    ...process.env,
    PM2_HOME: path.join(folder, 'home'),
    PORT: String(port),
    DATABASE_URL: site.databaseUrl,
  };
  const run = promisify(execFile);
  const pm2 = (...args: string[]) =>
    run(process.execPath, [path.join(folder, 'node_modules/pm2/bin/pm2'), ...args], {
      cwd: site.folder,
      env,
    });
  const stop = async () => {
    await pm2('kill').catch(() => {});
    await rm(folder, { recursive: true, force: true });
  };
  try {
    await run('npm', ['install', '--prefix', folder, '--no-audit', '--no-fund', 'pm2']);
    await pm2('start', 'server.js', '-i', String(WORKERS));
    const origin = `http://127.0.0.1:${port}`;
    await answers(origin);
    return { name: `PM2 cluster, ${WORKERS}`, origin, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

function answers(origin: string): Promise<boolean> {
  return until(async () => (await fetch(origin)).ok, { what: `${origin} answers` });
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const end = new Promise(resolve => child.once('exit', resolve));
  child.kill('SIGTERM');
  await end;
}
