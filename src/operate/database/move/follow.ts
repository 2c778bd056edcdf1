/**
 * One database follows another: PostgreSQL's logical replication copies the rows and goes on with the changes.
 *
 * Everything has the same name on both sides, so that whoever comes after a controller that was killed finds what it
 * left, and clears it.
 */
import pg from 'pg';
import { BanyanError } from '../../../errors.ts';
import { pollUntil } from '../../poll.ts';
import { type MovedTable, nameOf, type Queryable } from './movable.ts';
import type { MoveEnd } from './schema.ts';

const NAME = 'banyan_move';

export class CopyStands extends BanyanError {
  constructor(reason: string) {
    super('COPY_STANDS', {
      what: `The copy of the database does not go on: ${reason}`,
      where: 'logical replication',
      remedy:
        'Nothing was switched; the database that serves goes on. `banyan logs` of both servers tell why; try again',
    });
  }
}

/** Nothing has moved for this long: something is wrong. */
const STALL_MS = 120_000;

/** Starts to copy and to follow. */
export async function startFollowing(
  source: Queryable,
  target: Queryable,
  from: MoveEnd,
  tables: MovedTable[],
): Promise<void> {
  if (tables.length === 0) return;
  // The tables by their names: one that a migration makes meanwhile must not be published without anybody
  // who follows, since one without a key could then not be updated.
  await source.query(`create publication ${NAME} for table ${tables.map(nameOf).join(', ')}`);
  const { host, port, user, password, database } = from;
  const connection = Object.entries({ host, port, user, password, dbname: database })
    .map(([key, value]) => `${key}='${String(value).replace(/['\\]/g, '\\$&')}'`)
    .join(' ');
  await target.query(
    `create subscription ${NAME} connection ${pg.escapeLiteral(connection)} publication ${NAME}`,
  );
}

export interface CopyProgress {
  /** Tables whose rows are all there. */
  copied: number;
  tables: number;
}

/** Waits until all rows have been copied. @throws CopyStands */
export async function untilCopied(
  target: Queryable,
  onProgress: (progress: CopyProgress) => void = () => {},
): Promise<void> {
  let last = '';
  let changedAt = performance.now();
  const done = await pollUntil(Number.POSITIVE_INFINITY, async () => {
    const { rows } = await target.query<{ copied: number; tables: number; bytes: string }>(
      `select count(*) filter (where srsubstate in ('r', 's'))::int as copied, count(*)::int as tables,
              coalesce((select sum(bytes_processed) from pg_stat_progress_copy), 0)::text as bytes
       from pg_subscription_rel`,
    );
    const { copied, tables, bytes } = rows[0] ?? { copied: 0, tables: 0, bytes: '0' };
    onProgress({ copied, tables });
    if (copied === tables) return true;
    if (last !== `${copied} ${bytes}`) {
      last = `${copied} ${bytes}`;
      changedAt = performance.now();
    }
    if (performance.now() - changedAt < STALL_MS) return undefined;
    throw new CopyStands(
      `${copied} of ${tables} tables are copied, and nothing has moved for ${STALL_MS / 1_000} s`,
    );
  });
  if (!done) throw new CopyStands('it was given up');
}

/**
 * Writes a mark on the source and waits until it has arrived: all that was committed before it is there too,
 * since changes are applied in the order of their commits.
 * @throws CopyStands after `timeoutMs`
 */
export async function untilCaughtUp(
  source: Queryable,
  target: Queryable,
  timeoutMs: number,
): Promise<void> {
  const { rows } = await source.query<{ mark: string }>(
    `insert into banyan.settings (key, value) values ('move.mark', to_jsonb(gen_random_uuid()::text))
     on conflict (key) do update set value = excluded.value, changed_at = now()
     returning value #>> '{}' as mark`,
  );
  const mark = rows[0]?.mark;
  const arrived = await pollUntil(timeoutMs, async () => {
    const seen = await target.query<{ here: boolean }>(
      `select value #>> '{}' = $1 as here from banyan.settings where key = 'move.mark'`,
      [mark],
    );
    return seen.rows[0]?.here || undefined;
  });
  if (!arrived) {
    throw new CopyStands(`it is behind by more than ${timeoutMs / 1_000} s`);
  }
}

/** Numbers that sequences have given out do not travel: each goes on where the source's is. */
export async function copySequences(source: Queryable, target: Queryable): Promise<void> {
  const { rows } = await source.query<{ name: string; value: string }>(
    `select format('%I.%I', schemaname, sequencename) as name, last_value::text as value
     from pg_sequences where last_value is not null`,
  );
  if (rows.length === 0) return;
  await target.query(
    `select setval(n::regclass, v::bigint) from unnest($1::text[], $2::text[]) as s(n, v)`,
    [rows.map(({ name }) => name), rows.map(({ value }) => value)],
  );
}

/** Takes away what a move has made on the target, whether it came to its end or not. */
export async function stopFollowing(target: Queryable): Promise<void> {
  const { rowCount } = await target.query('select from pg_subscription where subname = $1', [NAME]);
  if (!rowCount) return;
  await target.query(`alter subscription ${NAME} disable`);
  // The slot is the source's business: it may not be there, or not answer.
  await target.query(`alter subscription ${NAME} set (slot_name = none)`);
  await target.query(`drop subscription ${NAME}`);
}

/** The same on the source. Without it, the log would be kept for somebody who never comes. */
export async function stopPublishing(source: Queryable): Promise<void> {
  await source.query(`drop publication if exists ${NAME}`);
  const gone = await pollUntil(10_000, async () => {
    await source.query(
      `select pg_terminate_backend(active_pid) from pg_replication_slots
       where slot_type = 'logical' and database = current_database() and active
         and (slot_name = $1 or slot_name like 'pg\\_%\\_sync\\_%')`,
      [NAME],
    );
    await source.query(
      `select pg_drop_replication_slot(slot_name) from pg_replication_slots
       where slot_type = 'logical' and database = current_database() and not active
         and (slot_name = $1 or slot_name like 'pg\\_%\\_sync\\_%')`,
      [NAME],
    );
    const left = await source.query(
      `select from pg_replication_slots where slot_type = 'logical' and database = current_database()
         and (slot_name = $1 or slot_name like 'pg\\_%\\_sync\\_%')`,
      [NAME],
    );
    return left.rowCount === 0 || undefined;
  });
  if (!gone) throw new CopyStands(`the slot ${NAME} cannot be dropped`);
}
