/**
 * The steps that go on until they succeed: telling a branch what was decided, looking the decision up, and dropping
 * decisions that nobody needs any more. Each over connections of its own (`ShardPrimary.open`), asked from whoever is
 * the primary by then.
 */
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { hasCode } from '../../../../errors.ts';
import type { ShardPrimary } from './branch.ts';
import { confirm, type Decision, decide, forget } from './decisions.ts';
import { branchPrefix, parseBranchName } from './names.ts';

const PAUSE_MS = 20;
const PAUSE_LIMIT_MS = 500;

/** undefined_object: there is no prepared transaction of this name. */
const NOT_THERE = '42704';

const FORGET_AFTER_MS = 1_000;
/** A row that is not dropped is dropped by the recoverer: no reason to remember more than this. */
const REMEMBER_MOST = 10_000;

/** Runs `body` with a connection of its own to the shard's primary. @throws what either throws */
export async function withPrimary<T>(
  shard: ShardPrimary,
  body: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = await shard.open();
  try {
    return await body(client);
  } finally {
    client.end().catch(() => {});
  }
}

/**
 * Commits or rolls back a prepared branch, unless it is gone already.
 * @param client outside of a transaction
 */
export async function endPrepared(
  client: pg.ClientBase,
  name: string,
  decision: Decision,
): Promise<void> {
  const verb = decision === 'committed' ? 'commit' : 'rollback';
  try {
    await client.query(`${verb} prepared ${pg.escapeLiteral(name)}`);
  } catch (error) {
    if (!hasCode(error, NOT_THERE)) throw error;
  }
}

/**
 * The same, tried again until the shard has done it.
 * @param timeoutMs Default: no limit
 * @returns whether it is known to be done
 */
export async function endBranch(
  shard: ShardPrimary,
  name: string,
  decision: Decision,
  signal: AbortSignal,
  timeoutMs?: number,
): Promise<boolean> {
  const done = await untilAnswered(signal, timeoutMs, () =>
    withPrimary(shard, async client => {
      await endPrepared(client, name, decision);
      return true;
    }),
  );
  return done ?? false;
}

/** What was decided; asked until it is known. @returns undefined when time was up before */
export function decideUntilKnown(
  shard: ShardPrimary,
  id: string,
  signal: AbortSignal,
  timeoutMs: number,
): Promise<Decision | undefined> {
  return untilAnswered(signal, timeoutMs, () => withPrimary(shard, client => decide(client, id)));
}

async function untilAnswered<T>(
  signal: AbortSignal,
  timeoutMs: number | undefined,
  ask: () => Promise<T | undefined>,
): Promise<T | undefined> {
  const deadline =
    timeoutMs === undefined ? Number.POSITIVE_INFINITY : performance.now() + timeoutMs;
  for (let pause = PAUSE_MS; ; pause = Math.min(pause * 1.5, PAUSE_LIMIT_MS)) {
    const answer = await ask().catch(() => undefined);
    if (answer !== undefined || signal.aborted || performance.now() > deadline) return answer;
    await delay(pause, undefined, { signal }).catch(() => {});
  }
}

/** A connection of its own as one of a pool, for whoever releases it. */
export async function lookUp(shard: ShardPrimary): Promise<pg.PoolClient> {
  const client = await shard.open();
  const release = () => {
    client.end().catch(() => {});
  };
  return Object.assign(client, { release });
}

/**
 * The ids of the transactions that have a prepared branch here, by a server that is the primary after it was asked.
 */
export async function transactionsWithBranch(
  client: pg.ClientBase,
  deployment: string,
): Promise<Set<string>> {
  const { rows } = await client.query<{ gid: string }>(
    'select gid from pg_prepared_xacts where database = current_database() and starts_with(gid, $1)',
    [branchPrefix(deployment)],
  );
  await confirm(client);
  return new Set(rows.flatMap(({ gid }) => parseBranchName(gid)?.id ?? []));
}

interface Finished {
  readonly id: string;
  readonly decider: ShardPrimary;
  /** Those with the other branches. */
  readonly shards: readonly ShardPrimary[];
}

/**
 * Drops decisions whose branches have ended, many at a time and beside the path.
 *
 * Each shard is asked once more, for all of them: the answer to COMMIT PREPARED may have come from a server that was
 * replaced meanwhile, and its successor still have the branch.
 */
export class Forgetting {
  readonly #deployment: string;
  #waiting: Finished[] = [];
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<unknown> = Promise.resolve();

  constructor(deployment: string) {
    this.#deployment = deployment;
  }

  add(finished: Finished): void {
    if (this.#waiting.length >= REMEMBER_MOST) return;
    this.#waiting.push(finished);
    this.#timer ??= setTimeout(() => this.#flush(), FORGET_AFTER_MS).unref();
  }

  async close(): Promise<void> {
    this.#flush();
    await this.#running;
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const all = this.#waiting;
    this.#waiting = [];
    // What is not dropped now the recoverer drops later.
    this.#running = Promise.all([this.#running, this.#drop(all).catch(() => {})]);
  }

  async #drop(all: Finished[]): Promise<void> {
    const open = new Map<ShardPrimary, Set<string>>();
    await Promise.all(
      [...new Set(all.flatMap(({ shards }) => shards))].map(async shard => {
        open.set(
          shard,
          await withPrimary(shard, client => transactionsWithBranch(client, this.#deployment)),
        );
      }),
    );
    const over = all.filter(({ id, shards }) => shards.every(shard => !open.get(shard)!.has(id)));
    await Promise.all(
      [...new Set(over.map(({ decider }) => decider))].map(decider => {
        const ids = over.flatMap(one => (one.decider === decider ? [one.id] : []));
        return withPrimary(decider, client => forget(client, ids));
      }),
    );
  }
}
