/**
 * What deciding where a statement runs costs: the parser's load, a parse, a classification, and the
 * look-up of a text that is known.
 *
 *     node --expose-gc bench/route.ts
 *
 * The catalog is that of a real server with the cases' schema.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { CatalogKeeper } from '../src/app/database/route/catalog-keeper.ts';
import { classify } from '../src/app/database/route/classify.ts';
import { openParser } from '../src/app/database/route/parser.ts';
import { StatementCache } from '../src/app/database/route/statement-cache.ts';
import { SCHEMA } from '../test/app/database/route/cases.ts';
import { TestPostgres } from '../test/support/postgres.ts';

const TEXTS = {
  'by key': 'select id, name from users where id = $1',
  list: `select a.id, a.title, a.created_at, u.name, count(*) as favorites
    from articles a join users u on u.id = a.author_id
    where a.author_id = $1 and a.created_at > now() - interval '7 days' and a.tags && $2
    group by a.id, u.id order by favorites desc, a.id limit 20 offset $3`,
  insert: `insert into articles (id, author_id, title, tags, details) values ($1, $2, $3, $4, $5)
    on conflict (id) do update set title = excluded.title returning id`,
  'insert × 100': `insert into tags (name, uses) values ${Array.from({ length: 100 }, (_, n) => `($${2 * n + 1}, $${2 * n + 2})`).join(', ')}`,
};

const before = memory();
const begun = performance.now();
const parser = await openParser();
const loaded = performance.now() - begun;
const afterLoad = memory();
const firstBegun = performance.now();
parser.parse(TEXTS.list);
const first = performance.now() - firstBegun;
const afterFirst = memory();
console.log(`load the parser        ${loaded.toFixed(1)} ms, first parse ${first.toFixed(1)} ms`);
console.log(
  `memory (PSS)           +${(afterLoad - before).toFixed(1)} MB loaded, +${(afterFirst - before).toFixed(1)} MB after the first parse`,
);

// Waiting for a server to end keeps no process alive by itself.
const alive = setInterval(() => {}, 1_000);
const postgres = await TestPostgres.start();
const client = await (await postgres.pool()).connect();
await client.query(SCHEMA);
const keeper = new CatalogKeeper(client, {
  onError: error => {
    throw error;
  },
});
const catalogBegun = performance.now();
await keeper.refresh();
const whole = performance.now() - catalogBegun;
const againBegun = performance.now();
await keeper.refresh();
const again = performance.now() - againBegun;
keeper.close();
client.release();
await postgres.remove();
clearInterval(alive);
console.log(`load the catalog       ${whole.toFixed(0)} ms, refresh ${again.toFixed(0)} ms\n`);

const catalog = keeper.current;
console.log(
  'text'.padEnd(16),
  'parse µs'.padStart(10),
  'classify µs'.padStart(12),
  'cached ns'.padStart(10),
  'new string ns'.padStart(14),
);
for (const [name, text] of Object.entries(TEXTS)) {
  const parsed = parser.parse(text);
  const cache = new StatementCache(parser, () => keeper.current);
  // Others are there as well, as in an application.
  for (let n = 0; n < 1_000; n++) cache.facts(`select id from users where id = ${n}`);
  // A text that was put together anew has no hash yet: what a query builder gives.
  const bytes = Buffer.from(text);
  const cold = measure(() => cache.facts(bytes.toString('latin1')), 20_000);
  const making = measure(() => bytes.toString('latin1').length, 20_000);
  console.log(
    name.padEnd(16),
    (measure(() => parser.parse(text), 2_000) / 1e3).toFixed(1).padStart(10),
    (measure(() => classify(parsed, catalog), 5_000) / 1e3).toFixed(1).padStart(12),
    measure(() => cache.facts(text), 1_000_000)
      .toFixed(0)
      .padStart(10),
    Math.max(0, cold - making)
      .toFixed(0)
      .padStart(14),
  );
}

const emptied = memory();
const full = new StatementCache(parser, () => keeper.current);
for (let n = 0; n < 10_000; n++) full.facts(`${TEXTS.list} -- ${n}`);
const held = memory() - emptied;
console.log(
  `\n10,000 texts of ${TEXTS.list.length} characters: ${held.toFixed(0)} MB held, ${(full.bytes / 1024 / 1024).toFixed(0)} MB by the cache's own estimate (${full.size} kept)`,
);

const deep = `select 1${'+1'.repeat(20_000)}`;
let blocked = 0;
for (let n = 0; n < 20; n++) {
  const at = performance.now();
  parser.parse(deep);
  blocked = Math.max(blocked, performance.now() - at);
  while (parser.parse('select 1').kind !== 'statements') await delay(1);
}
console.log(
  `a text too deep to parse blocks ${blocked.toFixed(0)} ms at most; after 20 of them ${(memory() - emptied - held).toFixed(0)} MB more`,
);

/** The best of five rounds: what the machine can do when nothing else disturbs. */
function measure(work: () => unknown, times: number): number {
  let best = Infinity;
  for (let round = 0; round < 5; round++) {
    const start = process.hrtime.bigint();
    for (let n = 0; n < times; n++) work();
    best = Math.min(best, Number(process.hrtime.bigint() - start) / times);
  }
  return best;
}

function memory(): number {
  globalThis.gc?.();
  const text = readFileSync('/proc/self/smaps_rollup', 'utf8');
  return Number(/^Pss:\s+(\d+) kB/m.exec(text)?.[1] ?? 0) / 1024;
}
