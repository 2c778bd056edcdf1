/**
 * The decision: what became of a transaction across shards. It is a row in one of the shards that wrote, and that
 * shard's own part of the transaction commits together with it.
 *
 * Holds true here:
 * - **A row of `committed` is there exactly when the transaction is committed**: it is written within the transaction of
 *   the shard that decides, which is committed in one phase after all other branches are prepared.
 * - **Whoever finds a branch and no decision makes one**: it inserts a row of `aborted` under the same key. The key is
 *   unique, so of the two there is one. While the coordinator's transaction is open the insert waits for it, which is
 *   how it is seen to be alive: no list of who is active is needed, and none can be out of date.
 * - A row of `aborted` stays for longer than a transaction may be open before it decides (`MAX_AGE_HOURS`): a coordinator
 *   that slept meanwhile finds it. A row of `committed` stays until no branch is left.
 * - An answer counts after its server has committed something, waiting for its synchronous standbys: neither a
 *   primary that is one no more nor one that forgets the row at the next failover is believed.
 */
import pg from 'pg';
import { hasCode } from '../../../../errors.ts';

export type Decision = 'committed' | 'aborted';

/** A transaction that is open for longer when it comes to its decision is refused. */
const MAX_AGE_HOURS = 12;
const KEEP_ABORTED_HOURS = 24;

/**
 * When the coordinator is silent after the row is written: the server ends its transaction. A commit takes
 * milliseconds, with a slow branch seconds; a machine that was lost would keep locks on all shards for hours.
 */
const SILENCE_MS = 60_000;
/** How long whoever asks waits for a transaction that is being decided. */
const WAIT_MS = 500;

/** lock_not_available */
const LOCKED = '55P03';
const UNIQUE_VIOLATION = '23505';

/**
 * SQL that makes the table in the database that it is run in; may be run again.
 * @param role whose it is to be; default: who runs it
 */
export function decisionTable(role?: string): string {
  const owner = role && `alter table banyan.decisions owner to ${pg.escapeIdentifier(role)};`;
  return `
create schema if not exists banyan;
create table if not exists banyan.decisions (
  id text primary key,
  outcome text not null check (outcome in ('committed', 'aborted')),
  -- Those with a prepared branch.
  shards text[] not null default '{}',
  decided_at timestamptz not null default clock_timestamp()
);
${owner ?? ''}`;
}

/** To be held while the table is made: `create … if not exists` of two at a time fails for one of them. */
const TABLE_LOCK = 7_233_402_118_544n;

/** Makes the table unless it is there. */
export async function ensureDecisionTable(client: pg.ClientBase): Promise<void> {
  const { rows } = await client.query<{ found: boolean }>(
    `select to_regclass('banyan.decisions') is not null as found`,
  );
  if (rows[0]?.found) return;
  await client.query(
    `begin; select pg_advisory_xact_lock(${TABLE_LOCK}); ${decisionTable()} commit`,
  );
}

/**
 * Waits for a standby also where the database, or the session, does not: neither a decision nor a prepared branch may
 * be forgotten by a failover, or the transaction would be torn.
 */
export const DURABLE = `case when current_setting('synchronous_commit') in ('off', 'local')
  then set_config('synchronous_commit', 'on', true) else '' end`;

const RECORD = `with guard as materialized (
    select ${DURABLE} || set_config('idle_in_transaction_session_timeout', '${SILENCE_MS}', true) as settings
  )
  insert into banyan.decisions (id, outcome, shards)
  select $1, 'committed', $2 from guard
  where settings is not null and clock_timestamp() - now() < interval '${MAX_AGE_HOURS} hours'`;

/** Somebody decided that it is aborted, or it was open for too long. */
export class AlreadyAborted extends Error {}

/**
 * Writes the decision, in the transaction that it is committed with.
 * @param shards those with a prepared branch, as `encodeName` writes them
 * @throws AlreadyAborted, and what the query throws: then it is not committed
 */
export async function recordDecision(
  query: (text: string, values: unknown[]) => Promise<pg.QueryResult>,
  id: string,
  shards: string[],
): Promise<void> {
  let rowCount: number | null;
  try {
    ({ rowCount } = await query(RECORD, [id, shards]));
  } catch (error) {
    if (!hasCode(error, UNIQUE_VIOLATION)) throw error;
    throw new AlreadyAborted('it was taken for given up, and rolled back on the other shards');
  }
  if (rowCount !== 1) throw new AlreadyAborted(`it was open for ${MAX_AGE_HOURS} hours`);
}

/**
 * What is decided of a transaction; and when nothing is and its coordinator is gone: that it is aborted.
 * @param client to the primary of the shard that decides, outside of a transaction; is left so
 * @returns undefined while its coordinator is at work
 */
export async function decide(client: pg.ClientBase, id: string): Promise<Decision | undefined> {
  const key = pg.escapeLiteral(id);
  try {
    const results = (await client.query(`begin isolation level read committed read write;
      set local lock_timeout = ${WAIT_MS};
      select ${DURABLE};
      insert into banyan.decisions (id, outcome) values (${key}, 'aborted') on conflict (id) do nothing;
      select outcome from banyan.decisions where id = ${key};
      select pg_logical_emit_message(true, 'banyan', ''::text);
      commit`)) as unknown as pg.QueryResult<{ outcome: Decision }>[];
    return results[4]?.rows[0]?.outcome;
  } catch (error) {
    await client.query('rollback');
    if (hasCode(error, LOCKED)) return undefined;
    throw error;
  }
}

/** Commits something that is waited for: what the server said before is what its successor will say. */
export async function confirm(client: pg.ClientBase): Promise<void> {
  await client.query(
    `begin; select ${DURABLE}; select pg_logical_emit_message(true, 'banyan', ''::text); commit`,
  );
}

/** Drops the decisions of transactions that have no branch left. */
export async function forget(client: pg.ClientBase, ids: string[]): Promise<void> {
  await client.query('delete from banyan.decisions where id = any($1)', [ids]);
}

export interface OldDecision {
  readonly id: string;
  readonly shards: string[];
}

/** Those of `committed` that their coordinator should have dropped long ago. */
export async function oldDecisions(
  client: pg.ClientBase,
  olderThanMs: number,
  most: number,
): Promise<OldDecision[]> {
  const { rows } = await client.query<OldDecision>(
    `select id, shards from banyan.decisions
     where outcome = 'committed' and decided_at < clock_timestamp() - $1 * interval '1 ms' limit $2`,
    [olderThanMs, most],
  );
  return rows;
}

/** Drops the rows of `aborted` that nobody can run into any more. @returns how many */
export async function forgetAborted(client: pg.ClientBase): Promise<number> {
  const { rowCount } = await client.query(
    `delete from banyan.decisions where outcome = 'aborted'
     and decided_at < clock_timestamp() - interval '${KEEP_ABORTED_HOURS} hours'`,
  );
  return rowCount ?? 0;
}
