/**
 * How long a developer waits: from the command, as `npm start` gives it, to the first 200 of the
 * reference application's front page; and what all of it holds in memory when idle.
 *
 *     node bench/start.ts [--runs 5]
 *
 * First start: `initdb`, roles, migrations. Warm start: the data is there. The clock runs outside
 * Banyan: it starts before npm and stops when the page has been read.
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { copyExample, REPOSITORY, type Site } from '../test/support/deployment.ts';
import { processesOf } from '../test/support/processes.ts';

const { values } = parseArgs({ options: { runs: { type: 'string', default: '5' } } });
const runs = Number(values.runs);

const first: number[] = [];
const warm: number[] = [];
let memory: [string, number][] = [];
for (let run = 0; run < runs; run++) {
  const site = await copyExample('conduit');
  try {
    first.push(await timeToFirstPage(site));
    warm.push(await timeToFirstPage(site));
    if (run === runs - 1) memory = await weigh(site);
  } finally {
    await site.remove();
  }
}

report('first start', first, 6_000);
report('warm start', warm, 2_000);
console.log('\nidle memory after 10 s (proportional set size, shared pages counted once):');
for (const [what, megabytes] of memory)
  console.log(`  ${what.padEnd(12)}${megabytes.toFixed(0).padStart(5)} MB`);
const total = memory.reduce((sum, [, megabytes]) => sum + megabytes, 0);
console.log(`  ${'total'.padEnd(12)}${total.toFixed(0).padStart(5)} MB`);

async function timeToFirstPage(site: Site): Promise<number> {
  const begun = performance.now();
  const child = spawn('npm', ['run', 'banyan', '--', 'up', '--dir', site.folder, '--port', '0'], {
    cwd: REPOSITORY,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  const address = await new Promise<string>((resolve, reject) => {
    child.stdout.on('data', chunk => {
      output += chunk;
      const found = /(http:\/\/\S+) {2}ready/.exec(output)?.[1];
      if (found) resolve(found);
    });
    child.once('exit', () => reject(new Error(`it ended:\n${output}`)));
  });
  const response = await fetch(address);
  await response.text();
  const elapsed = performance.now() - begun;
  if (response.status !== 200) throw new Error(`/ answered ${response.status}`);
  const ended = new Promise(resolve => child.once('exit', resolve));
  await site.banyan(['down']);
  await ended;
  return elapsed;
}

/** In the background, so that npm, which waits in the foreground, does not count. */
async function weigh(site: Site): Promise<[string, number][]> {
  await site.up();
  await (await fetch(site.address)).text();
  await delay(10_000);
  const parts = new Map<string, number>();
  for (const { pid, command } of processesOf(site.folder)) {
    const part = /^postgres|\/postgres /.test(command)
      ? 'PostgreSQL'
      : /guardian/.test(command)
        ? 'guardian'
        : /bin\/banyan\.js/.test(command)
          ? 'supervisor'
          : 'application';
    parts.set(part, (parts.get(part) ?? 0) + pssOf(pid));
  }
  return [...parts];
}

function pssOf(pid: number): number {
  try {
    const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
    return Number(/^Pss:\s+(\d+) kB/m.exec(text)?.[1] ?? 0) / 1024;
  } catch {
    return 0;
  }
}

function report(what: string, times: number[], goal: number): void {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (index: number) => (sorted[index]! / 1_000).toFixed(2);
  const middle = at(Math.floor(sorted.length / 2));
  console.log(
    `${what.padEnd(12)} ${middle} s (${at(0)} to ${at(sorted.length - 1)} s, ${times.length} runs); to reach: ${goal / 1_000} s`,
  );
}
