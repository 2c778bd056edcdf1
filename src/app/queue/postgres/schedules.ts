/**
 * Cron schedules: rows on the first shard, fired by whichever worker looks first.
 *
 * Holds true here:
 * - The row of a schedule is locked while it is fired; the message, the note that it fired (a unique key) and the next
 *   time are one transaction.
 * - By the database's clock. `next_at` never goes back, so a clock that is set back fires nothing twice; what was missed is
 *   made up for by one message, for the latest time that has passed.
 */
import { Cron } from 'croner';
import type pg from 'pg';
import { nextId } from '../../ids/next-id.ts';
import type { Schedule } from '../engine.ts';

/** Later than that, a time was missed. */
const MISSED_MS = 60_000;
/** A schedule of every second that nobody was there for in a month has that many; then a later start is good enough. */
const MOST_STEPS = 100_000;

interface ScheduleRow {
  name: string;
  cron: string;
  time_zone: string;
  topic: string;
  payload: string;
  missed: 'latest' | 'skip';
  next_at: Date;
  now: Date;
}

/** @throws what croner says of an expression that is none */
export function parseCron(cron: string, timeZone: string): Cron {
  return new Cron(cron, { timezone: timeZone, paused: true });
}

/** The first time of a schedule after a moment; undefined when there is none. Pure. */
export function nextTime(cron: string, timeZone: string, after: Date): Date | undefined {
  return parseCron(cron, timeZone).nextRun(after) ?? undefined;
}

/**
 * What is to be done about a schedule whose time has come. Pure.
 * @returns the time to fire for, undefined for none; and when it is due next
 */
export function dueTimes(
  schedule: Pick<Schedule, 'cron' | 'timeZone' | 'missed'>,
  nextAt: Date,
  now: Date,
): { fire: Date | undefined; next: Date | undefined } {
  const cron = parseCron(schedule.cron, schedule.timeZone);
  let latest = nextAt;
  let next = cron.nextRun(nextAt) ?? undefined;
  for (let step = 0; next && next <= now && step < MOST_STEPS; step++) {
    latest = next;
    next = cron.nextRun(next) ?? undefined;
  }
  const isMissed = now.getTime() - latest.getTime() > MISSED_MS;
  return { fire: schedule.missed === 'skip' && isMissed ? undefined : latest, next };
}

/** What a name meant before is replaced; a schedule that is as it was keeps its next time. */
export async function storeSchedules(
  client: pg.ClientBase,
  schedules: readonly Schedule[],
): Promise<void> {
  const { rows } = await client.query<{ now: Date }>('select clock_timestamp() as now');
  for (const { name, cron, timeZone, topic, payload, missed } of schedules) {
    const next = nextTime(cron, timeZone, rows[0]!.now);
    await client.query(
      `insert into banyan_queue.schedule as s (name, cron, time_zone, topic, payload, missed, next_at)
       values ($1, $2, $3, $4, $5, $6, coalesce($7::timestamptz, 'infinity'))
       on conflict (name) do update set topic = excluded.topic, payload = excluded.payload, missed = excluded.missed,
         next_at = case when (s.cron, s.time_zone) = (excluded.cron, excluded.time_zone) then s.next_at
                   else greatest(excluded.next_at, (select max(at) + interval '1 ms' from banyan_queue.firing f where f.schedule = s.name)) end,
         cron = excluded.cron, time_zone = excluded.time_zone`,
      [name, cron, timeZone, topic, payload, missed, next],
    );
  }
}

/**
 * Fires what is due. Several may call it at once.
 * @param client a connection that is in no transaction
 * @returns how many messages were published
 */
export async function fireSchedules(client: pg.ClientBase): Promise<number> {
  let fired = 0;
  for (;;) {
    await client.query('begin');
    try {
      const { rows } = await client.query<ScheduleRow>(
        `select *, clock_timestamp() as now from banyan_queue.schedule
         where next_at <= clock_timestamp() order by next_at limit 1 for update skip locked`,
      );
      const [row] = rows;
      if (row && (await fire(client, row))) fired++;
      await client.query('commit');
      if (!row) return fired;
    } catch (error) {
      await client.query('rollback').catch(() => {});
      throw error;
    }
  }
}

async function fire(client: pg.ClientBase, row: ScheduleRow): Promise<boolean> {
  const { name, cron, time_zone: timeZone, topic, payload, missed, next_at: nextAt, now } = row;
  const { fire: at, next } = dueTimes({ cron, timeZone, missed }, nextAt, now);
  await client.query(
    `update banyan_queue.schedule set next_at = coalesce($2::timestamptz, 'infinity') where name = $1`,
    [name, next],
  );
  if (!at) return false;
  const id = nextId();
  const { rowCount } = await client.query(
    'insert into banyan_queue.firing (schedule, at, message) values ($1, $2, $3) on conflict do nothing',
    [name, at, id],
  );
  if (rowCount === 0) return false;
  await client.query(
    'select banyan_queue.publish($1, array[$2::bigint], array[$3::text], null, null, null, null, null, true)',
    [topic, id, payload],
  );
  return true;
}
