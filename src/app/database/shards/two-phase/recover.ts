/**
 * Ends what a crash left: branches that are prepared and whose coordinator is gone, and decisions that nobody dropped.
 *
 * Holds true here:
 * - The order is that of Citus (transaction_recovery.c): the prepared branches are listed first; then it is asked
 *   whether each is at work, and what was decided, which is one question here (`decisions.ts`); then the branch is
 *   ended by its name, and one that is gone meanwhile was ended by somebody else.
 * - Only branches of this deployment, in this database, are touched. One whose shard is not known is told of and left.
 * - A decision is dropped only when none of its branches is listed, by servers that have confirmed after it that
 *   they are the primaries.
 * - It may run in many processes at once: all of it is right then too, only done twice.
 */
import type pg from 'pg';
import { hasCode } from '../../../../errors.ts';
import type { ShardPrimary } from './branch.ts';
import { decide, forget, forgetAborted, oldDecisions } from './decisions.ts';
import { endPrepared, transactionsWithBranch } from './finish.ts';
import { branchPrefix, encodeName, parseBranchName } from './names.ts';

export interface RecoverOptions {
  readonly deployment: string;
  /**
   * Branches that were prepared so recently are left to their coordinator, in milliseconds. Only for its
   * convenience: one that is recovered too early is rolled back as a whole. Default: 2000.
   */
  readonly graceMs?: number;
  /** Decisions are left for so long to their coordinator, in milliseconds. Default: 60000. */
  readonly keepDecisionsMs?: number;
}

export interface Recovered {
  /** Branches that were ended, and how. */
  committed: number;
  aborted: number;
  /** Branches whose coordinator is at work. */
  active: number;
  /** Decisions that were dropped. */
  forgotten: number;
  /** Branches of a shard, or decided by one, that is not known here: their names. */
  strangers: string[];
  /** Shards that could not be asked, by their ids, and why. What depends on them is left for the next time. */
  away: Map<string, Error>;
}

const GRACE_MS = 2_000;
const KEEP_DECISIONS_MS = 60_000;
/** In one go: there are no more prepared transactions than connections, but rows may pile up. */
const MOST = 1_000;

/** Arbitrary, and ours alone: one process at a time recovers a shard. */
const RECOVERY_LOCK = 7_233_402_118_545n;

/** The prepared transaction is being ended by somebody else. */
const BUSY = '55000';

const PREPARED = `select gid from pg_prepared_xacts
  where database = current_database() and starts_with(gid, $1)
    and prepared < clock_timestamp() - $2 * interval '1 ms'
  order by prepared limit ${MOST}`;

/** Recovers all shards of a deployment. Does not throw: what could not be done is in what it returns. */
export async function recoverTwoPhase(
  shards: readonly ShardPrimary[],
  options: RecoverOptions,
): Promise<Recovered> {
  await using recovery = new Recovery(shards, options);
  for (const { id } of shards) await recovery.shard(encodeName(id));
  return recovery.result;
}

class Recovery {
  readonly result: Recovered = {
    committed: 0,
    aborted: 0,
    active: 0,
    forgotten: 0,
    strangers: [],
    away: new Map(),
  };
  readonly #options: RecoverOptions;
  readonly #shards: Map<string, ShardPrimary>;
  readonly #clients = new Map<string, pg.Client>();

  constructor(shards: readonly ShardPrimary[], options: RecoverOptions) {
    this.#options = options;
    this.#shards = new Map(shards.map(shard => [encodeName(shard.id), shard]));
  }

  async shard(name: string): Promise<void> {
    const { deployment, graceMs = GRACE_MS, keepDecisionsMs = KEEP_DECISIONS_MS } = this.#options;
    await this.#at(name, async client => {
      const lock = await client.query<{ free: boolean }>(
        `select pg_try_advisory_lock(${RECOVERY_LOCK}) as free`,
      );
      if (!lock.rows[0]?.free) return;
      const { rows } = await client.query<{ gid: string }>(PREPARED, [
        branchPrefix(deployment),
        graceMs,
      ]);
      for (const { gid } of rows) await this.#branch(client, gid);
      await this.#decisions(client, keepDecisionsMs);
      await client.query(`select pg_advisory_unlock(${RECOVERY_LOCK})`);
    });
  }

  async #branch(client: pg.ClientBase, gid: string): Promise<void> {
    const name = parseBranchName(gid);
    if (!name || !this.#shards.has(name.decider)) {
      this.result.strangers.push(gid);
      return;
    }
    const answer = await this.#at(name.decider, async decider => ({
      decision: await decide(decider, name.id),
    }));
    if (!answer) return;
    const { decision } = answer;
    if (!decision) {
      this.result.active++;
      return;
    }
    try {
      await endPrepared(client, gid, decision);
      this.result[decision]++;
    } catch (error) {
      if (!hasCode(error, BUSY)) throw error;
      this.result.active++;
    }
  }

  async #decisions(client: pg.ClientBase, keepMs: number): Promise<void> {
    await forgetAborted(client);
    const old = await oldDecisions(client, keepMs, MOST);
    const names = new Set(old.flatMap(({ shards }) => shards));
    const open = new Map<string, Set<string>>();
    for (const name of names) {
      // Of a shard that is away, or not known, nothing is proven.
      const ids = await this.#at(name, at => transactionsWithBranch(at, this.#options.deployment));
      if (ids) open.set(name, ids);
    }
    const isOver = ({ id, shards }: { id: string; shards: string[] }) =>
      shards.every(name => open.get(name)?.has(id) === false);
    const ids = old.filter(isOver).map(({ id }) => id);
    if (ids.length > 0) await forget(client, ids);
    this.result.forgotten += ids.length;
  }

  /** @returns undefined when the shard cannot be asked, which is noted */
  async #at<T>(name: string, body: (client: pg.Client) => Promise<T>): Promise<T | undefined> {
    const shard = this.#shards.get(name);
    if (!shard || this.result.away.has(shard.id)) return undefined;
    try {
      let client = this.#clients.get(name);
      if (!client) {
        client = await shard.open();
        this.#clients.set(name, client);
      }
      return await body(client);
    } catch (error) {
      this.result.away.set(shard.id, error as Error);
      return undefined;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#clients.values()].map(client => client.end()));
  }
}
