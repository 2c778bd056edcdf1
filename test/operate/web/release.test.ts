/** Releases: online, one by one, taken back by themselves when they are no good. */
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Site, siteOf } from '../../support/deployment.ts';
import { LEDGER_APP, LedgerSubject } from '../../support/ledger.ts';
import { expectUnnoticed } from '../../support/verdict.ts';
import { type Account, Witness } from '../../support/witness.ts';

/** Kept short: each release of code that never gets ready takes as long. */
const CONFIGURATION = `export default { web: { servers: 2, startTimeoutMs: 15_000 } };`;
const SERVER = LEDGER_APP['server.ts'];
let site: Site;
beforeAll(async () => {
  site = await siteOf({ ...LEDGER_APP, 'banyan.config.ts': CONFIGURATION });
  await site.up();
});
afterAll(() => site?.remove());

async function witness(of = site): Promise<Witness> {
  await of.pool().query('delete from entries');
  return new Witness(new LedgerSubject(of.address, of.pool())).start();
}

function expectClean(account: Account): void {
  expectUnnoticed(account);
  expect(account.writes.acknowledged).toBeGreaterThan(50);
}

/** Changes the application so that one can see which code serves. */
function edit(change: (code: string) => string, of = site): void {
  const file = path.join(of.folder, 'server.ts');
  writeFileSync(file, change(readFileSync(file, 'utf8')));
}

async function labels(of = site): Promise<unknown[]> {
  const { units } = await of.status();
  return units.filter(({ tier }) => tier === 'web').map(unit => unit.labels.release);
}

const release = (...args: string[]) => site.banyan(['release', '--watch', '0', ...args]);

interface Listed {
  number: number;
  serves: boolean;
  failed?: string;
}

/** The newest first. */
async function releases(): Promise<Listed[]> {
  return JSON.parse((await site.ok('releases', '--json')).stdout);
}

/** Releases the application as it was at first. @returns the release's number */
async function releaseSound(): Promise<number> {
  writeFileSync(path.join(site.folder, 'server.ts'), SERVER);
  writeFileSync(path.join(site.folder, 'banyan.config.ts'), CONFIGURATION);
  rmSync(path.join(site.folder, 'migrations/002.sql'), { force: true });
  await site.ok('release', '--watch', '0');
  return (await releases())[0]!.number;
}

test('rollback to what is not there names what is', async () => {
  const none = await site.banyan(['rollback']);
  expect(none).toMatchObject({ code: 1, stderr: expect.stringContaining('banyan release') });
  await site.ok('release', '--watch', '0');
  const unknown = await site.banyan(['rollback', '7']);
  expect(unknown).toMatchObject({ code: 1, stderr: expect.stringContaining('There are: 1; 0 is') });
});

test('ten releases in a row and a rollback, and no request fails', async () => {
  const first = await releaseSound();
  const watching = await witness();
  await watching.untilAcknowledged(20);
  for (let number = first + 1; number <= first + 10; number++) {
    edit(code => `${code}\n// ${number}`);
    await site.ok('release', '--watch', '0');
    expect(await labels()).toEqual([number, number]);
  }
  await site.ok('rollback');
  expect(await labels()).toEqual([first + 9, first + 9]);
  await watching.untilAcknowledged(20);
  expectClean(await watching.stop());

  // The last few are kept to go back to, the others make room.
  const kept = await releases();
  expect(kept.map(({ number }) => number - first)).toEqual([10, 9, 8, 7, 6, 5]);
  expect(kept.filter(({ serves }) => serves).map(({ number }) => number)).toEqual([first + 9]);
  expect(existsSync(path.join(site.paths.releases, String(first + 4)))).toBe(false);
});

test('a single server without a balancer is released online as well', async () => {
  await using plain = await siteOf(LEDGER_APP);
  await plain.up();
  const watching = await witness(plain);
  await watching.untilAcknowledged(20);
  for (let number = 1; number <= 3; number++) {
    await plain.ok('release', '--watch', '0');
    expect(await labels(plain)).toEqual([number]);
    await watching.untilAcknowledged(20);
  }
  expectClean(await watching.stop());
});

test('a release is what the folder was: later edits change nothing, and it cannot be written to', async () => {
  const number = await releaseSound();
  edit(code => code.replace("'/who'", "'/whoever'"));
  expect((await fetch(`${site.address}/who`)).status).toBe(200);
  const folder = path.join(site.paths.releases, String(number));
  expect(statSync(folder).mode & 0o222).toBe(0);
  expect(statSync(path.join(folder, 'server.ts')).mode & 0o222).toBe(0);
  // It survives a restart of everything, and says so.
  await site.down();
  const up = await site.ok('up', '--detach', '--port', new URL(site.address).port);
  expect(up.output).toContain(`release ${number} runs, not the folder as it is now`);
  expect(await labels()).toEqual([number, number]);
  await site.ok('rollback', '0');
  expect(await labels()).toEqual([0, 0]);
});

describe('taken back by itself, the old release serving all the time', () => {
  /** The release that serves before. */
  let old: number;
  beforeEach(async () => {
    old = await releaseSound();
  });

  async function expectTakenBack(result: Awaited<ReturnType<typeof release>>): Promise<void> {
    expect(result.code).toBe(1);
    expect(await labels()).toEqual([old, old]);
    const [last, before] = await releases();
    expect(last).toMatchObject({ failed: expect.any(String), serves: false });
    expect(before).toMatchObject({ number: old, serves: true });
    expect(existsSync(path.join(site.paths.releases, String(old + 1)))).toBe(false);
  }

  test('when the new code crashes at start', async () => {
    const watching = await witness();
    await watching.untilAcknowledged(20);
    edit(() => `throw new Error('no such luck');`);
    const result = await release();
    expect(result.output).toContain('no such luck');
    expect(result.output).toContain('taken back');
    await expectTakenBack(result);
    expectClean(await watching.stop());
  });

  test('when the new server never gets ready', async () => {
    const watching = await witness();
    await watching.untilAcknowledged(20);
    edit(code =>
      code.replace(
        'lifecycle(server, { pool })',
        'lifecycle(server, { pool, startUp: new Promise(() => {}) })',
      ),
    );
    const result = await release();
    expect(result.output).toContain('not ready after 15 s');
    await expectTakenBack(result);
    expectClean(await watching.stop());
  });

  test('when the build fails: nothing was touched', async () => {
    writeFileSync(
      path.join(site.folder, 'banyan.config.ts'),
      `export default { web: { servers: 2, build: 'echo it does not compile >&2; exit 2' } };`,
    );
    const result = await release();
    expect(result.code).toBe(1);
    expect(result.output).toMatch(/exit code 2.*it does not compile/s);
    expect(result.output).toContain('the old release serves');
    expect(await labels()).toEqual([old, old]);
    expect((await releases())[0]).toMatchObject({ number: old, serves: true });
  });

  test('when a migration fails: nothing of it is kept, no server was touched', async () => {
    const watching = await witness();
    await watching.untilAcknowledged(20);
    writeFileSync(
      path.join(site.folder, 'migrations/002.sql'),
      'drop table entries; select nonsense;',
    );
    const result = await release();
    expect(result.output).toContain('002.sql failed');
    await expectTakenBack(result);
    await watching.untilAcknowledged(20);
    expectClean(await watching.stop());
  });

  test('when errors rise on the first new server: the second is never replaced', async () => {
    edit(code =>
      code.replace(
        '} else {',
        `} else if (Math.random() < 0.5) {\n throw new Error('flaky');\n } else {`,
      ),
    );
    let stop = false;
    const load = Promise.all(
      Array.from({ length: 4 }, async () => {
        while (!stop) await (await fetch(`${site.address}/1`)).text();
      }),
    );
    const result = await site.banyan(['release', '--watch', '10']);
    stop = true;
    await load;
    expect(result.output).toMatch(/answers with errors \(5xx\): \d+ of \d+ answers/);
    await expectTakenBack(result);
  });
});

test('a migration runs before the new code, and the old code bears it', async () => {
  await releaseSound();
  const watching = await witness();
  await watching.untilAcknowledged(20);
  writeFileSync(
    path.join(site.folder, 'migrations/002-note.sql'),
    `alter table entries add column note text not null default 'none';`,
  );
  edit(code => code.replace('select value from entries', 'select value, note from entries'));
  await site.ok('release', '--watch', '0');
  await watching.untilAcknowledged(20);
  expectClean(await watching.stop());
});
