/**
 * The slot: whether it still is the one that was read before, and what to say when it is not.
 *
 * Holds true here:
 * - A slot does not say who made it and when. After a failover to a server that did not have it, Patroni makes one of
 *   the same name, which begins *there*: what came before is lost, and nothing shows it. So there is a **note** of each
 *   slot in the table `banyan.log_readers` of the same database: the cluster and the timeline on which it
 *   was last read. A slot that is past the place where the log left that timeline cannot be the one that was read.
 * - A gap is noted before the new slot is made, and until it was dealt with: a reader that dies in between leaves it
 *   to the next.
 * - The note is written when a reader begins, not with each transaction: it would be a write for each write.
 *
 * Not seen: a slot dropped and made again by hand, on the same timeline, while no reader was there.
 */
import type pg from 'pg';
import { hasCode } from '../../errors.ts';
import {
  type Lsn,
  leftAt,
  parseHistory,
  parseLsn,
  type TimelineHistory,
} from '../database/timelines.ts';
import { formatLsn, type GapReason } from './change.ts';

/** Who the server is: its cluster, and its place in that cluster's history. */
export interface Whereabouts {
  readonly system: string;
  readonly timeline: number;
  readonly history: TimelineHistory;
}

export interface Note {
  readonly system: string;
  readonly timeline: number;
  /** Who last read. */
  readonly reader: string;
  /** A gap that nobody has dealt with yet. */
  readonly gap: { readonly reason: GapReason; readonly from: Lsn | undefined } | undefined;
}

export interface SlotState {
  /** Up to here all was acknowledged. */
  readonly confirmed: Lsn;
  /** The log that it needs is gone, or it is another kind of slot. */
  readonly isUnusable: boolean;
}

/** What this process has read itself since it began. */
export interface Memory {
  readonly reader: string;
  /** The place that it last acknowledged. */
  readonly acknowledged: Lsn | undefined;
  /** The end of the last transaction that it dealt with. */
  readonly dealtWith: Lsn | undefined;
  /** The server has failed to read its log for this slot, again and again. */
  readonly isUnreadable: boolean;
}

export type Judgement =
  | { readonly verdict: 'go on' }
  | {
      readonly verdict: 'gap';
      readonly reason: GapReason;
      readonly from: Lsn | undefined;
      /** The slot is to be made; anew, if there is one. */
      readonly makes: boolean;
    };

/** Decides whether the slot goes on where it was left. Pure. */
export function judge(
  here: Whereabouts,
  slot: SlotState | undefined,
  note: Note | undefined,
  memory: Memory,
): Judgement {
  const makes = slot === undefined || slot.isUnusable || memory.isUnreadable;
  const gap = (reason: GapReason, from: Lsn | undefined): Judgement => ({
    verdict: 'gap',
    reason,
    from,
    makes,
  });
  if (!note) return gap('first', undefined);
  const isOurs = note.reader === memory.reader;
  const acknowledged = isOurs ? memory.acknowledged : undefined;
  // The slot that is here knows nothing of a place on the former cluster.
  if (note.system !== here.system) return gap('other-cluster', acknowledged);
  if (note.gap) return gap(note.gap.reason, note.gap.from);
  if (!slot) return gap('vanished', acknowledged);
  if (memory.isUnreadable) return gap('unreadable', slot.confirmed);
  if (slot.isUnusable) return gap('invalidated', slot.confirmed);
  // Others would have changed the note.
  if (acknowledged !== undefined && slot.confirmed > acknowledged) {
    return gap('vanished', acknowledged);
  }
  const left = leftAt(here.history, here.timeline, note.timeline);
  if (left === 'never') return { verdict: 'go on' };
  if (left === undefined) return gap('diverged', acknowledged);
  if (slot.confirmed > left) return gap('vanished', acknowledged);
  if (isOurs && memory.dealtWith !== undefined && memory.dealtWith > left) {
    return gap('diverged', left);
  }
  return { verdict: 'go on' };
}

/** @param client of a replication connection: any other may not ask */
export async function whereabouts(client: pg.Client): Promise<Whereabouts> {
  const { rows } = await client.query<{ systemid: string; timeline: number }>('IDENTIFY_SYSTEM');
  const { systemid, timeline } = rows[0]!;
  return {
    system: systemid,
    timeline: Number(timeline),
    history: await historyOf(client, Number(timeline)),
  };
}

async function historyOf(client: pg.Client, timeline: number): Promise<TimelineHistory> {
  if (timeline === 1) return [];
  try {
    const { rows } = await client.query<{ content: string | Buffer }>(
      `TIMELINE_HISTORY ${timeline}`,
    );
    const content = rows[0]!.content;
    return parseHistory(typeof content === 'string' ? content : content.toString('utf8'));
  } catch (error) {
    // The file is gone: nothing is known of what came before.
    if (hasCode(error, '58P01', 'XX000')) return [];
    throw error;
  }
}

const NOTES = `
  create table if not exists banyan.log_readers (
    slot text primary key,
    system text not null,
    timeline integer not null,
    reader text not null,
    gap text,
    gap_from pg_lsn,
    since timestamptz not null default now())`;

/** Makes the table of notes, unless it is there: making it again would want a right that a reader need not have. */
export async function prepareNotes(client: pg.ClientBase): Promise<void> {
  const { rows } = await client.query(
    `select to_regclass('banyan.log_readers') is not null as there`,
  );
  if (rows[0].there) return;
  try {
    await client.query('create schema if not exists banyan');
    await client.query(NOTES);
  } catch (error) {
    // Two who make it at the same time: 23505 and 42P07 say that the other one did.
    if (!hasCode(error, '23505', '42P07', '42P06')) throw error;
  }
}

export async function readNote(client: pg.ClientBase, slot: string): Promise<Note | undefined> {
  const { rows } = await client.query<{
    system: string;
    timeline: number;
    reader: string;
    gap: GapReason | null;
    gap_from: string | null;
  }>(
    'select system, timeline, reader, gap, gap_from::text from banyan.log_readers where slot = $1',
    [slot],
  );
  const row = rows[0];
  return (
    row && {
      system: row.system,
      timeline: row.timeline,
      reader: row.reader,
      gap: row.gap
        ? { reason: row.gap, from: row.gap_from === null ? undefined : parseLsn(row.gap_from) }
        : undefined,
    }
  );
}

export async function writeNote(client: pg.ClientBase, slot: string, note: Note): Promise<void> {
  await client.query(
    `insert into banyan.log_readers (slot, system, timeline, reader, gap, gap_from)
     values ($1, $2, $3, $4, $5, $6)
     on conflict (slot) do update set system = excluded.system, timeline = excluded.timeline,
       reader = excluded.reader, gap = excluded.gap, gap_from = excluded.gap_from, since = now()`,
    [
      slot,
      note.system,
      note.timeline,
      note.reader,
      note.gap?.reason ?? null,
      note.gap?.from === undefined ? null : formatLsn(note.gap.from),
    ],
  );
}

/** The gap was dealt with; of a reader that has been replaced meanwhile, it is not. */
export async function endGap(client: pg.ClientBase, slot: string, reader: string): Promise<void> {
  await client.query(
    'update banyan.log_readers set gap = null, gap_from = null where slot = $1 and reader = $2',
    [slot, reader],
  );
}

export async function readSlot(
  client: pg.ClientBase,
  slot: string,
): Promise<SlotState | undefined> {
  const { rows } = await client.query<{ confirmed: string | null; unusable: boolean }>(
    `select confirmed_flush_lsn::text as confirmed,
       wal_status is not distinct from 'lost' or plugin is distinct from 'pgoutput'
         or database is distinct from current_database() as unusable
     from pg_replication_slots where slot_name = $1`,
    [slot],
  );
  const row = rows[0];
  return (
    row && {
      confirmed: row.confirmed === null ? 0n : parseLsn(row.confirmed),
      isUnusable: row.unusable || row.confirmed === null,
    }
  );
}

/** @returns where it begins. Waits until all transactions that run now have ended */
export async function makeSlot(client: pg.ClientBase, slot: string): Promise<Lsn> {
  const { rows } = await client.query<{ lsn: string }>(
    `select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput')`,
    [slot],
  );
  return parseLsn(rows[0]!.lsn);
}

/** @throws 55006 while somebody reads with it */
export async function dropSlot(client: pg.ClientBase, slot: string): Promise<void> {
  await client.query(
    'select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1',
    [slot],
  );
}
