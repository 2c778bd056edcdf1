/**
 * Was it committed? What became of a transaction whose COMMIT was sent and not answered.
 *
 * PostgreSQL can say what became of a transaction number (`pg_xact_status`). The trap: **numbers are used
 * again.** A number is handed out in memory. A server that starts from its log, after a crash or as a
 * standby that is promoted, goes on after the highest number that it met in that log (`nextXid`,
 * src/backend/access/transam/xlogrecovery.c, ApplyWalRecord). If no record of our transaction got there,
 * our number is given to somebody else, and that one's fate would be taken for ours.
 *
 * So just before COMMIT a **marker** is written to the log, in the transaction: a message
 * (`pg_logical_emit_message`) with 16 random bytes, which changes nothing and which nobody sees. Its place
 * is known, and our commit record can only come after it.
 *
 * What is proven, and by what:
 * 1. *The same timeline, and no crash in between*: the server has not forgotten which numbers it gave, so the
 *    number is still ours. An orderly restart writes the next number down. That there was no crash is
 *    told by the time at which the server's statistics were last emptied: a start after a crash empties
 *    them, an orderly one does not (StartupXLOG, pgstat_discard_stats; since 15, and tests hold it to
 *    the installed versions). The start of the postmaster would not tell: when one backend dies badly,
 *    the postmaster lives, and starts all else anew from the log. (Not covered: somebody puts a cold copy
 *    of the data back within the seconds in which this is asked.)
 * 2. *Else, and the marker is in the log*: then the number was met in the log, was given to nobody else, and
 *    is ours. Nobody else could have written these bytes.
 * 3. *Else, and the marker is not in the log*, for the history left our timeline before it
 *    (`timelines.ts`), or the log does not reach that far, or other bytes are there: the commit record
 *    comes after the marker, so it is not there either: aborted.
 *    The bytes are read only below the flushed end of the log, after a record of our own: what a crash left
 *    beyond the valid end has been written over by then.
 * 4. Else nothing is proven: `unknown`. So it is when that part of the log is gone (`wal_keep_size` keeps some),
 *    when there are no functions to read it (`outcome-functions.ts`), and on another cluster (`system`),
 *    where numbers mean nothing.
 *
 * With the number known as ours, one statement asks for its fate. It has ended when this statement's snapshot
 * no longer lists it as running (`pg_visible_in_snapshot`), and only then its status counts: a
 * backend that waits for a synchronous standby has written "committed" already, and could still lose it;
 * minor versions differ in what `pg_xact_status` says of it. That backend is waited for, never
 * cancelled. One that has ended and is not "committed" is aborted, also when older versions say "in progress"
 * of what a crash cut off. (src/backend/utils/adt/xid8funcs.c)
 *
 * And an answer counts only when the server that gave it has **committed something after it**, waiting for
 * its synchronous standbys as any COMMIT does. A crash makes what only the dead server had flushed visible
 * without waiting for anyone, and a primary that has been cut off can go on talking: neither answer would
 * outlive the next failover.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { hasCode } from '../../errors.ts';
import {
  CURRENT_TIMELINE,
  leftAt,
  parseHistory,
  parseLsn,
  type TimelineHistory,
} from './timelines.ts';

/** What has to be known of a transaction to find out later what became of it. Taken by {@link markCommit}. */
export interface CommitMark extends Whereabouts {
  /** The transaction's number, with its epoch. */
  readonly xid: string;
  /** Where the marker's record ends in the log, as PostgreSQL prints it. */
  readonly lsn: string;
  /** What the marker says: 16 random bytes. */
  readonly token: Buffer;
}

interface Whereabouts {
  /** The cluster's identifier: the same on a primary and its standbys. */
  readonly system: string;
  readonly timeline: number;
  /** When the server's statistics were last emptied: changes with every crash. */
  readonly memory: string | null;
}

export type CommitOutcome = 'committed' | 'aborted' | 'unknown';

/** The pause between two questions while the primary is away or the transaction has not ended. */
const PAUSE_MS = 20;
const PAUSE_LIMIT_MS = 250;

const TOKEN_BYTES = 16;

const WHEREABOUTS = `
  (select system_identifier::text from pg_control_system()) as system,
  ${CURRENT_TIMELINE} as timeline,
  extract(epoch from pg_stat_get_bgwriter_stat_reset_time())::text as memory`;

const MARK = `select pg_current_xact_id_if_assigned()::text as xid,
  case when pg_current_xact_id_if_assigned() is not null
    then pg_logical_emit_message(true, 'banyan', $1::bytea)::text end as lsn,
  extract(epoch from now())::text as begun, ${WHEREABOUTS}`;

const STATUS = `select pg_visible_in_snapshot($1::xid8, pg_current_snapshot()) as ended,
  pg_xact_status($1::xid8) as status`;

/** Writes something and commits it: `pg_current_xact_id()` alone would not be waited for. */
const COMMIT_SOMETHING = `select pg_logical_emit_message(true, 'banyan', ''::text)`;

/** No such function, no such schema, not allowed to call it. */
const NO_FUNCTIONS = ['42883', '3F000', '42501'];

/** A transaction as its server tells it apart from others of the same session. */
export interface Begun {
  begun: string;
}

/** Tells the transactions of a session apart, by when they began; to be asked in it. */
export const BEGUN = 'select extract(epoch from now())::text as begun';

/** The session is in another transaction than it should be, or in none. */
export class OtherTransaction extends Error {}

/**
 * Marks a transaction just before its COMMIT is sent: one round trip, about 25 µs of the server's, and 100
 * bytes of log when it has written anything.
 * @param client in the transaction
 * @param begun what {@link BEGUN} answered in it: the transaction is checked to be still the same
 * @returns undefined when the transaction has no number. Then it wrote nothing to this database, and it is
 *   harmless to run it again whatever became of its COMMIT
 * @throws OtherTransaction, and what the query throws
 */
export async function markCommit(
  client: pg.ClientBase,
  begun?: string,
): Promise<CommitMark | undefined> {
  const token = randomBytes(TOKEN_BYTES);
  const { rows } = await client.query<
    Whereabouts & Begun & { xid: string | null; lsn: string | null }
  >(MARK, [token]);
  const { begun: current, xid, lsn, ...whereabouts } = rows[0]!;
  if (begun !== undefined && begun !== current) throw new OtherTransaction();
  if (xid === null || lsn === null) return undefined;
  return { ...whereabouts, xid, lsn, token };
}

/**
 * Finds out what became of a transaction whose COMMIT was sent, from the primary that is there now.
 * @param connect gives a connection to the primary, and waits while there is none
 * @param options.timeoutMs after this the outcome is `unknown`
 * @returns `committed` or `aborted` only when it is proven, and will stay so
 */
export async function resolveCommit(
  mark: CommitMark,
  connect: () => Promise<pg.PoolClient>,
  options: { timeoutMs: number },
): Promise<CommitOutcome> {
  const patience = new AbortController();
  const late = delay(Math.max(0, options.timeoutMs), 'unknown' as const, {
    signal: patience.signal,
  }).catch(() => 'unknown' as const);
  try {
    return await Promise.race([late, askUntilKnown(mark, connect, patience.signal)]);
  } finally {
    patience.abort();
  }
}

async function askUntilKnown(
  mark: CommitMark,
  connect: () => Promise<pg.PoolClient>,
  signal: AbortSignal,
): Promise<CommitOutcome> {
  for (let pause = PAUSE_MS; !signal.aborted; pause = Math.min(pause * 1.5, PAUSE_LIMIT_MS)) {
    try {
      const outcome = await askOnce(mark, connect, signal);
      if (outcome) return outcome;
    } catch {
      // No primary, or it went while it was asked: whoever is primary next is asked.
    }
    await delay(pause);
  }
  return 'unknown';
}

/** @returns undefined when it is to be asked again */
async function askOnce(
  mark: CommitMark,
  connect: () => Promise<pg.PoolClient>,
  signal: AbortSignal,
): Promise<CommitOutcome | undefined> {
  const client = await connect();
  let isGivenBack = false;
  const giveBack = (broken: boolean) => {
    if (isGivenBack) return;
    isGivenBack = true;
    if (!broken) client.removeListener('error', ignore);
    client.release(broken);
  };
  // A server that hangs, or waits for a standby, would keep the connection.
  const giveUp = () => giveBack(true);
  client.on('error', ignore);
  signal.addEventListener('abort', giveUp);
  try {
    const outcome = signal.aborted ? 'unknown' : await ask(client, mark);
    giveBack(false);
    return outcome;
  } finally {
    giveBack(true);
    signal.removeEventListener('abort', giveUp);
  }
}

const ignore = () => {};

async function ask(client: pg.ClientBase, mark: CommitMark): Promise<CommitOutcome | undefined> {
  const { rows } = await client.query<Whereabouts>(`select ${WHEREABOUTS}`);
  const here = rows[0]!;
  if (here.system !== mark.system) return 'unknown';
  if (isUnbroken(mark, here)) {
    const outcome = await statusOf(client, mark);
    if (outcome) await client.query(COMMIT_SOMETHING);
    return outcome;
  }
  // A primary that has been replaced and does not know it yet; the one that replaced it will be found.
  if (here.timeline < mark.timeline) return undefined;
  await client.query(COMMIT_SOMETHING);
  switch (await findMarker(client, mark, here.timeline)) {
    case 'there':
      return statusOf(client, mark);
    case 'missing':
      return 'aborted';
    case 'unknown':
      return 'unknown';
  }
}

/** Whether the server has known all the time which numbers it gave. */
function isUnbroken(before: Whereabouts, now: Whereabouts): boolean {
  return now.timeline === before.timeline && now.memory !== null && now.memory === before.memory;
}

/** @returns undefined while it has not ended */
async function statusOf(
  client: pg.ClientBase,
  { xid }: CommitMark,
): Promise<CommitOutcome | undefined> {
  const { rows } = await client.query<{ ended: boolean; status: string | null }>(STATUS, [xid]);
  const { ended, status } = rows[0]!;
  if (!ended) return undefined;
  // So old that its status is no longer kept.
  if (status === null) return 'unknown';
  return status === 'committed' ? 'committed' : 'aborted';
}

/** Whether the marker is in the log of this server, which is on timeline `current`. */
async function findMarker(
  client: pg.ClientBase,
  mark: CommitMark,
  current: number,
): Promise<'there' | 'missing' | 'unknown'> {
  try {
    const history = await historyOf(client, current);
    if (!history) return 'unknown';
    const left = leftAt(history, current, mark.timeline);
    if (left === undefined) return 'missing';
    if (left !== 'never' && left < parseLsn(mark.lsn)) return 'missing';
    const timelines = [...history.map(({ timeline }) => timeline), current]
      .filter(timeline => timeline >= mark.timeline)
      .reverse();
    const { rows } = await client.query<{ holds: boolean | null }>(
      'select banyan.log_holds($1::pg_lsn, $2::int[], $3::bytea) as holds',
      [mark.lsn, timelines, mark.token],
    );
    const holds = rows[0]?.holds ?? undefined;
    if (holds === undefined) return 'unknown';
    return holds ? 'there' : 'missing';
  } catch (error) {
    if (hasCode(error, ...NO_FUNCTIONS)) return 'unknown';
    throw error;
  }
}

async function historyOf(
  client: pg.ClientBase,
  timeline: number,
): Promise<TimelineHistory | undefined> {
  if (timeline === 1) return [];
  const { rows } = await client.query<{ history: string | null }>(
    'select banyan.timeline_history($1) as history',
    [timeline],
  );
  const text = rows[0]?.history;
  return text ? parseHistory(text) : undefined;
}
