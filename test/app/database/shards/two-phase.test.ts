/** A transaction on several shards is committed on all of them or on none, wherever it is cut. */
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { OutcomeUnknown, TransactionBroken } from '../../../../src/app/database/errors.ts';
import { Branch } from '../../../../src/app/database/shards/two-phase/branch.ts';
import { Coordinator } from '../../../../src/app/database/shards/two-phase/coordinator.ts';
import {
  AlreadyAborted,
  ensureDecisionTable,
  recordDecision,
} from '../../../../src/app/database/shards/two-phase/decisions.ts';
import {
  branchName,
  branchPrefix,
  parseBranchName,
  TransactionIds,
} from '../../../../src/app/database/shards/two-phase/names.ts';
import { recoverTwoPhase } from '../../../../src/app/database/shards/two-phase/recover.ts';
import { ShardServers } from '../../../support/shard-servers.ts';
import { until } from '../../../support/until.ts';

const SHARDS = 3;
const DEPLOYMENT = 'shop';

let shards: ShardServers;
let coordinator: Coordinator;
let key = 0;

beforeAll(async () => {
  shards = await ShardServers.start(SHARDS);
  await shards.everywhere(`create table notes (key int primary key, text text,
    unique (text) deferrable initially deferred)`);
});
afterAll(() => shards?.remove());
beforeEach(() => {
  key++;
  coordinator = new Coordinator({
    deployment: DEPLOYMENT,
    name: 'web-1',
    prepareTimeoutMs: 5_000,
    finishTimeoutMs: 5_000,
  });
  return () => coordinator.close();
});

/** An open transaction that has written to each of the shards. */
async function written(on = [0, 1, 2], text = `text ${key}`): Promise<Branch[]> {
  return Promise.all(
    on.map(async shard => {
      const branch = await shards.begin(shard);
      await branch.query('insert into notes values ($1, $2)', [key, text]);
      branch.wrote = true;
      return branch;
    }),
  );
}

/** On which shards the row of this test is. */
async function found(): Promise<number[]> {
  const results = await shards.everywhere('select from notes where key = $1', [key]);
  return results.flatMap(({ rowCount }, shard) => (rowCount ? [shard] : []));
}

const recover = (options = {}) =>
  recoverTwoPhase(shards.primaries, {
    deployment: DEPLOYMENT,
    graceMs: 0,
    keepDecisionsMs: 0,
    ...options,
  });

const decisions = async () =>
  (await shards.everywhere('select id, outcome from banyan.decisions')).map(({ rows }) => rows);

const release = (branches: Branch[]) => {
  for (const branch of branches) branch.giveBack();
};

describe('names', () => {
  test('say whose branch it is and who decides, whatever the parts are called', () => {
    const part = fc.string({ minLength: 1, maxLength: 8, unit: 'binary-ascii' });
    fc.assert(
      fc.property(part, fc.string({ minLength: 1 }), part, part, (deployment, name, a, b) => {
        const id = new TransactionIds(deployment, name.toWellFormed()).next();
        const gid = branchName(id, a, b);
        expect(gid.startsWith(branchPrefix(deployment))).toBe(true);
        expect(Buffer.byteLength(gid)).toBeLessThan(200);
        expect(gid).not.toMatch(/['\\]/);
        expect(parseBranchName(gid)?.id).toBe(id);
      }),
    );
  });

  test('are used once', () => {
    const [one, other] = [new TransactionIds('shop', 'web-1'), new TransactionIds('shop', 'web-1')];
    const ids = [one.next(), one.next(), other.next(), other.next()];
    expect(new Set(ids).size).toBe(4);
  });

  test("another's names are not ours", () => {
    for (const gid of ['x', 'banyan', 'banyan:a:b:c:1:s', 'citus_0_1_2_3', 'banyan::b:c:1:s:t']) {
      expect(parseBranchName(gid)).toBeUndefined();
    }
  });

  test('that PostgreSQL would not take are refused', () => {
    const id = new TransactionIds('d'.repeat(170), 'web-1').next();
    expect(() => branchName(id, 's1', 's2')).toThrow(/would have \d+ bytes/);
  });
});

describe('commit', () => {
  test('on three shards: all of it is there, and nothing is left', async () => {
    const branches = await written();
    await coordinator.commit(branches);
    release(branches);
    expect(await found()).toEqual([0, 1, 2]);
    expect(await shards.prepared()).toEqual([[], [], []]);
    await coordinator.close();
    expect(await decisions()).toEqual([[], [], []]);
  });

  test('one phase when one shard wrote: it could not even be prepared', async () => {
    const [writer, ...readers] = await written([0]).then(async ([branch]) => [
      branch!,
      await shards.begin(1),
      await shards.begin(2, 'read only'),
    ]);
    await writer!.query('create temporary table mine (id int)');
    await coordinator.commit([...readers, writer!]);
    await writer!.query('drop table mine');
    release([...readers, writer!]);
    expect(await found()).toEqual([0]);
  });

  test('what cannot be prepared decides', async () => {
    const branches = await written();
    await branches[1]!.query('notify something');
    branches[1]!.cannotPrepare = true;
    await coordinator.commit(branches);
    release(branches);
    expect(await found()).toEqual([0, 1, 2]);
  });

  test('what cannot be prepared, and was not told of, is refused by PostgreSQL and leaves nothing', async () => {
    const branches = await written();
    for (const branch of branches) await branch.query('notify something');
    await expect(coordinator.commit(branches)).rejects.toMatchObject({ code: '0A000' });
    release(branches);
    expect(await found()).toEqual([]);
    expect(await shards.prepared()).toEqual([[], [], []]);
  });

  test.each([0, 1, 2])(
    'a constraint that fails at the end, on shard %i: nothing anywhere',
    async on => {
      await shards.pools[on]!.query('insert into notes values ($1, $2)', [-key, `text ${key}`]);
      const branches = await written();
      await expect(coordinator.commit(branches)).rejects.toMatchObject({ code: '23505' });
      // The connections are in order.
      for (const branch of branches) await branch.query('select 1');
      release(branches);
      expect(await found()).toEqual([]);
      expect(await shards.prepared()).toEqual([[], [], []]);
    },
  );

  test('after a statement that failed nothing is committed', async () => {
    const branches = await written();
    await expect(branches[2]!.query('select 1 / 0')).rejects.toMatchObject({ code: '22012' });
    await expect(coordinator.commit(branches)).rejects.toThrow();
    release(branches);
    expect(await found()).toEqual([]);
    expect(await shards.prepared()).toEqual([[], [], []]);
  });

  test('a decision is waited for also where the session does not wait for the log', async () => {
    const [branch] = await written([0]);
    await branch!.query("set local synchronous_commit = 'off'");
    await recordDecision((text, values) => branch!.query(text, values), `a:b:c:${key}`, []);
    const { rows } = await branch!.query(`select current_setting('synchronous_commit') as sync,
      current_setting('idle_in_transaction_session_timeout') as silence`);
    expect(rows).toEqual([{ sync: 'on', silence: '1min' }]);
    await branch!.rollBack();
    release([branch!]);
  });

  test('a decision that cannot be written (no right to): nothing anywhere, and the error is told', async () => {
    await shards.pools[0]!.query('create role nobody');
    await shards.everywhere('grant all on notes to nobody');
    const branches = await written();
    for (const branch of branches) await branch.query('set local role nobody');
    await expect(coordinator.commit(branches)).rejects.toMatchObject({ code: '42501' });
    release(branches);
    expect(await found()).toEqual([]);
    expect(await shards.prepared()).toEqual([[], [], []]);
  });
});

test('the table is made once by many at a time', async () => {
  await shards.everywhere('drop table banyan.decisions; drop schema banyan');
  await Promise.all(
    Array.from({ length: 6 }, async () => {
      const client = await shards.primaries[0]!.open();
      await ensureDecisionTable(client).finally(() => client.end());
    }),
  );
  for (const shard of shards.primaries) {
    const client = await shard.open();
    await ensureDecisionTable(client).finally(() => client.end());
  }
  expect(await decisions()).toEqual([[], [], []]);
});

/** Breaks the connection under the n-th statement that is sent, before it is sent or when it was answered. */
class Cut {
  left: number;
  readonly when: 'before' | 'after';
  /** The process is gone with it: nothing of it comes through any more. */
  readonly endsAll: boolean;
  #branches: CutBranch[] = [];

  constructor(step: number, when: 'before' | 'after', endsAll: boolean) {
    this.left = step;
    this.when = when;
    this.endsAll = endsAll;
  }

  on(branch: Branch): CutBranch {
    const cut = new CutBranch(branch, this);
    this.#branches.push(cut);
    return cut;
  }

  strike(branch: CutBranch): void {
    for (const other of this.endsAll ? this.#branches : [branch]) other.sever();
  }
}

class CutBranch extends Branch {
  readonly #cut: Cut;

  constructor(branch: Branch, cut: Cut) {
    super(branch.shard, branch.client, error => branch.giveBack(error));
    this.wrote = branch.wrote;
    this.#cut = cut;
  }

  override async query(...args: Parameters<Branch['query']>): ReturnType<Branch['query']> {
    const isHere = this.#cut.left-- === 0;
    if (isHere && this.#cut.when === 'before') this.#cut.strike(this);
    const answer = await super.query(...args);
    if (!isHere || this.#cut.when === 'before') return answer;
    this.#cut.strike(this);
    const error = Object.assign(new Error('cut'), { code: 'ECONNRESET' });
    this.breakOff(error);
    throw error;
  }

  sever(): void {
    (
      this.client as unknown as { connection: { stream: { destroy(): void } } }
    ).connection.stream.destroy();
  }
}

const STEPS = SHARDS + 1 + (SHARDS - 1);
const cuts = Array.from({ length: STEPS }, (_, step) =>
  (['before', 'after'] as const).flatMap(when => [
    { step, when, endsAll: false },
    { step, when, endsAll: true },
  ]),
).flat();

test.each(cuts)(
  'cut $when step $step (everything: $endsAll): all or nothing, and the truth is told',
  async ({ step, when, endsAll }) => {
    const cut = new Cut(step, when, endsAll);
    const branches = (await written()).map(branch => cut.on(branch));
    const answer = await coordinator.commit(branches).then(
      () => 'committed' as const,
      error => error as unknown,
    );
    release(branches);
    await until(async () => {
      await recover();
      return (await shards.prepared()).flat().length === 0;
    });
    const there = await found();
    if (answer === 'committed') expect(there).toEqual([0, 1, 2]);
    else if (answer instanceof TransactionBroken) {
      expect(answer.safeToRetry).toBe(true);
      expect(there).toEqual([]);
    } else {
      expect(answer).toBeInstanceOf(OutcomeUnknown);
      expect([0, SHARDS]).toContain(there.length);
    }
    // Up to the decision, and from it on, as it must be.
    if (step > SHARDS) expect(answer).toBe('committed');
    if (step < SHARDS) expect(answer).toBeInstanceOf(TransactionBroken);
  },
);

/** Its branches are told of the decision when the test says so. */
class SlowBranch extends CutBranch {
  readonly #may: Promise<void>;
  readonly #onAsked: () => void;

  constructor(branch: Branch, may: Promise<void>, onAsked: () => void) {
    super(branch, new Cut(Number.POSITIVE_INFINITY, 'before', false));
    this.#may = may;
    this.#onAsked = onAsked;
  }

  override async query(...args: Parameters<Branch['query']>): ReturnType<Branch['query']> {
    if (args[0].startsWith('commit prepared')) {
      this.#onAsked();
      await this.#may;
    }
    return super.query(...args);
  }
}

test('between the decision and the answer one shard shows what another does not yet', async () => {
  const may = Promise.withResolvers<void>();
  const asked = Promise.withResolvers<void>();
  const branches = (await written([0, 1])).map(
    branch => new SlowBranch(branch, may.promise, asked.resolve),
  );
  const committing = coordinator.commit(branches);
  await asked.promise;
  // The decider's, whichever that was.
  expect(await found()).toHaveLength(1);
  may.resolve();
  await committing;
  expect(await found()).toEqual([0, 1]);
  release(branches);
});

describe('recovery', () => {
  beforeEach(async () => {
    await shards.everywhere('delete from banyan.decisions');
  });

  /** What a coordinator has done up to the decision, and no further. */
  async function halfWay() {
    const id = new TransactionIds(DEPLOYMENT, 'web-1').next();
    const [decider, other] = await written([0, 1]);
    const name = branchName(id, 's0', 's1');
    await other!.query(`prepare transaction '${name}'`);
    const record = () => recordDecision((text, values) => decider!.query(text, values), id, ['s1']);
    return { id, decider: decider!, other: other!, name, record };
  }

  test('a branch without a decision is rolled back, and its coordinator comes too late', async () => {
    const { id, decider, other, record } = await halfWay();
    expect(await recover()).toMatchObject({ committed: 0, aborted: 1, active: 0 });
    expect(await decisions()).toEqual([[{ id, outcome: 'aborted' }], [], []]);
    await expect(record()).rejects.toThrow(AlreadyAborted);
    await decider.rollBack();
    release([decider, other]);
    expect(await found()).toEqual([]);
    // The row stays, for others that sleep.
    await recover();
    expect((await decisions())[0]).toContainEqual({ id, outcome: 'aborted' });
    await shards.everywhere("update banyan.decisions set decided_at = now() - interval '25 hours'");
    await recover();
    expect(await decisions()).toEqual([[], [], []]);
  });

  test('a branch with a decision is committed, and the decision dropped after it', async () => {
    const { decider, other, record } = await halfWay();
    await record();
    await decider.query('commit');
    release([decider, other]);
    expect(await found()).toEqual([0]);
    expect(await recover()).toMatchObject({ committed: 1, aborted: 0, forgotten: 0 });
    expect(await found()).toEqual([0, 1]);
    expect(await recover()).toMatchObject({ committed: 0, forgotten: 1 });
    expect(await decisions()).toEqual([[], [], []]);
  });

  test('a coordinator at work is left alone', async () => {
    const { decider, other, record, name } = await halfWay();
    await record();
    expect(await recover()).toMatchObject({ committed: 0, aborted: 0, active: 1 });
    await decider.query('commit');
    await other.query(`commit prepared '${name}'`);
    release([decider, other]);
    expect(await found()).toEqual([0, 1]);
  });

  test('a coordinator is not given up in the first moment', async () => {
    const { decider, other } = await halfWay();
    expect(await recover({ graceMs: 60_000 })).toMatchObject({ aborted: 0, active: 0 });
    expect((await shards.prepared())[1]).toHaveLength(1);
    await recover();
    await decider.rollBack();
    release([decider, other]);
  });

  test('a decision stays while one of its branches may be there', async () => {
    const { decider, other, record, id } = await halfWay();
    await record();
    await decider.query('commit');
    release([decider, other]);
    const unreachable = shards.primaries.map(shard =>
      shard.id === 's1' ? { id: 's1', open: () => Promise.reject(new Error('away')) } : shard,
    );
    const options = { deployment: DEPLOYMENT, graceMs: 0, keepDecisionsMs: 0 };
    const result = await recoverTwoPhase(unreachable, options);
    expect([...result.away.keys()]).toEqual(['s1']);
    expect((await decisions())[0]).toContainEqual({ id, outcome: 'committed' });
    expect(await recover()).toMatchObject({ committed: 1 });
    expect(await found()).toEqual([0, 1]);
  });

  test("others' prepared transactions are not touched", async () => {
    const branches = await written([0, 1]);
    const names = [branchName('other:web-1:e:1', 's1', 's0'), 'citus_0_1_2_3'];
    await Promise.all(branches.map((one, i) => one.query(`prepare transaction '${names[i]}'`)));
    const stranger = branchName(`${DEPLOYMENT}:web-1:e:${key}`, 'gone', 's2');
    const [third] = await written([2]);
    await third!.query(`prepare transaction '${stranger}'`);
    expect(await recover()).toMatchObject({ committed: 0, aborted: 0, strangers: [stranger] });
    expect(await shards.prepared()).toEqual([[names[0]], [names[1]], [stranger]]);
    await branches[0]!.query(`rollback prepared '${names[0]}'`);
    await branches[1]!.query(`rollback prepared '${names[1]}'`);
    await third!.query(`rollback prepared '${stranger}'`);
    release([...branches, third!]);
  });

  test('many recoverers at once do what one does', async () => {
    const aborted = await halfWay();
    await aborted.decider.rollBack();
    release([aborted.decider, aborted.other]);
    await Promise.all(Array.from({ length: 5 }, () => recover()));
    expect((await shards.prepared()).flat()).toEqual([]);
    expect(await found()).toEqual([]);
  });
});

test('a server that prepares nothing is told of, and nothing is kept', async () => {
  const [server] = shards.servers;
  await shards.pools[0]!.query('alter system set max_prepared_transactions = 0');
  await server!.stop();
  await server!.start();
  const branches = await written();
  await expect(coordinator.commit(branches)).rejects.toMatchObject({
    code: 'TWO_PHASE_UNAVAILABLE',
  });
  release(branches);
  expect(await found()).toEqual([]);
});
