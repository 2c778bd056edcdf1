/** The autoscaler at work: load makes servers, calm takes them away, and no request fails. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Site, siteOf } from '../../support/deployment.ts';
import { LEDGER_APP, LedgerSubject } from '../../support/ledger.ts';
import { load } from '../../support/load.ts';
import { until } from '../../support/until.ts';
import { expectUnnoticed } from '../../support/verdict.ts';
import { Witness } from '../../support/witness.ts';

let site: Site;
beforeEach(async () => {
  site = await siteOf({
    ...LEDGER_APP,
    // A route that computes: one processor is busy with some tens of these a second. Where others use the
    // processors too, it is not seen to be busy; then requests wait at the balancer, which is the other sign.
    'server.ts': LEDGER_APP['server.ts'].replace(
      "if (req.method === 'POST') {",
      "if (req.url === '/compute') {\n          const until = performance.now() + 25; while (performance.now() < until);\n          res.end('done');\n        } else if (req.method === 'POST') {",
    ),
    'banyan.config.ts': `export default {
      web: { servers: { min: 1, max: 3, target: 0.5, scaleDownAfterMs: 6000 }, maxConcurrency: 4 },
    };`,
  });
});
afterEach(() => site.remove());

const servers = async () =>
  (await site.status()).units.filter(({ tier, phase }) => tier === 'web' && phase === 'ready')
    .length;

test('more servers under load, fewer after it, each step with its reason, and no request fails', async () => {
  await site.up();
  expect((await site.status()).units.map(({ name }) => name)).toContain('autoscaler-1');
  const witness = new Witness(new LedgerSubject(site.address, site.pool()), {
    sessions: 2,
  }).start();

  const working = load({
    origin: site.address,
    rate: 30,
    durationMs: 40_000,
    next: () => ({ name: 'compute', path: '/compute' }),
  });
  await until(async () => ((await servers()) >= 2 ? true : undefined), {
    what: 'there are more servers',
    timeoutMs: 45_000,
  });
  const report = await working;
  expect(report.failures).toEqual({});
  await until(async () => ((await servers()) === 1 ? true : undefined), {
    what: 'there is one again',
    timeoutMs: 60_000,
  });

  const account = await witness.stop();
  expectUnnoticed(account);
  const operations = JSON.parse((await site.ok('operations', '--json')).stdout) as {
    kind: string;
    summary: string;
  }[];
  expect(operations.length).toBeGreaterThanOrEqual(2);
  for (const { kind, summary } of operations) {
    expect(kind).toBe('autoscale');
    expect(summary).toMatch(/web servers \d → \d: \d+ % busy \(meant to be 50 %\)/);
  }
  const log = readFileSync(path.join(site.paths.logs, 'autoscaler-1.log'), 'utf8');
  expect(log).toContain('web servers 1 → 2');
}, 180_000);

test('bounds that are taken out of the configuration take the autoscaler with them', async () => {
  await site.up();
  const { writeFileSync } = await import('node:fs');
  writeFileSync(
    path.join(site.folder, 'banyan.config.ts'),
    'export default { web: { servers: 2 } };',
  );
  await site.ok('apply', '--yes');
  const names = (await site.status()).units.map(({ name }) => name);
  expect(names).not.toContain('autoscaler-1');
  expect(await servers()).toBe(2);
});
