/**
 * The steps that go on until they succeed: telling a branch what was decided, looking the decision up, and dropping
 * decisions that nobody needs any more. Each over connections of its own (`ShardPrimary.open`), asked from whoever is
 * the primary by then.
 */
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { hasCode } from '../../../../errors.ts';
import type { ShardPrimary } from './branch.ts';
import { type Decision, decide, forget } from './decisions.ts';

const PAUSE_MS = 20;
const PAUSE_LIMIT_MS = 500;

/** undefined_object: there is no prepared transaction of this name. */
const NOT_THERE = '42704';

const FORGET_AFTER_MS = 1_000;
const FORGET_MOST = 500;
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

/** Drops decisions whose branches have all ended, many at a time and beside the path. */
export class Forgetting {
  readonly #waiting = new Map<ShardPrimary, string[]>();
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<unknown> = Promise.resolve();

  add(decider: ShardPrimary, id: string): void {
    const ids = this.#waiting.get(decider) ?? [];
    if (ids.length >= REMEMBER_MOST) return;
    this.#waiting.set(decider, ids);
    if (ids.push(id) >= FORGET_MOST) this.#flush();
    else this.#timer ??= setTimeout(() => this.#flush(), FORGET_AFTER_MS).unref();
  }

  async close(): Promise<void> {
    this.#flush();
    await this.#running;
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const all = [...this.#waiting];
    this.#waiting.clear();
    this.#running = Promise.all([
      this.#running,
      ...all.map(([shard, ids]) =>
        // What is not dropped now the recoverer drops later.
        withPrimary(shard, client => forget(client, ids)).catch(() => {}),
      ),
    ]);
  }
}
