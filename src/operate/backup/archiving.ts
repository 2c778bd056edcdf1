/** How the primary's archiving fares, and how its log is brought into the repository up to now. */
import type pg from 'pg';
import { BanyanError } from '../../errors.ts';
import { pollUntil } from '../poll.ts';
import { SEGMENT_BYTES } from './log-coverage.ts';

type Queryable = Pick<pg.Client, 'query'>;

export interface ArchivingState {
  /** Segments that are complete and not in the repository yet. */
  waiting: number;
  waitingBytes: number;
  /** When the last one arrived there; ISO 8601. Undefined: none has since the server's start. */
  archivedAt: string | undefined;
  /** When an attempt failed that none has made good since. */
  failedAt: string | undefined;
}

/** @param client a superuser's, on the primary */
export async function archivingState(client: Queryable): Promise<ArchivingState> {
  const { rows } = await client.query<{
    waiting: number;
    anything: boolean;
    archived: Date | null;
    failed: Date | null;
  }>(
    `select count(name) filter (where name ~ '^[0-9A-F]{24}\\.ready$')::int as waiting,
            count(name) > 0 as anything,
            min(last_archived_time) as archived, min(last_failed_time) as failed
     from pg_stat_archiver left join pg_ls_archive_statusdir() on name like '%.ready'`,
  );
  const { waiting, anything, archived, failed } = rows[0]!;
  const failing = anything && failed && (!archived || failed > archived) ? failed : undefined;
  return {
    waiting,
    waitingBytes: waiting * SEGMENT_BYTES,
    archivedAt: archived?.toISOString(),
    failedAt: failing?.toISOString(),
  };
}

export class ArchiveStands extends BanyanError {
  constructor(segment: string, timeoutMs: number) {
    super('ARCHIVE_STANDS', {
      what: `The log did not arrive in the repository within ${timeoutMs / 1_000} s`,
      where: segment,
      remedy:
        'Nothing was changed. `banyan status` shows what waits, `banyan logs` of the primary tells why; a full disk or a folder that is not mounted is the usual cause',
    });
  }
}

const ARRIVAL_TIMEOUT_MS = 60_000;

/**
 * Brings everything that was committed before into the repository, and one commit after it: a restore to a moment
 * knows that it is there only when it sees a later commit.
 * @param client a superuser's on the primary, in the application's database
 * @throws ArchiveStands
 */
export async function archiveAll(client: Queryable, timeoutMs = ARRIVAL_TIMEOUT_MS): Promise<void> {
  await client.query(
    `insert into banyan.settings (key, value) values ('backup.mark', to_jsonb(clock_timestamp()::text))
     on conflict (key) do update set value = excluded.value, changed_at = now()`,
  );
  const { rows } = await client.query<{ segment: string }>(
    'select pg_walfile_name(pg_switch_wal()) as segment',
  );
  const { segment } = rows[0]!;
  const arrived = await pollUntil(timeoutMs, async () => {
    const state = await client.query<{ there: boolean }>(
      `select coalesce(last_archived_wal ~ '^[0-9A-F]{24}$' and last_archived_wal >= $1, false)
              and not exists (select from pg_ls_archive_statusdir() where name = $1 || '.ready') as there
       from pg_stat_archiver`,
      [segment],
    );
    return state.rows[0]!.there || undefined;
  });
  if (!arrived) throw new ArchiveStands(segment, timeoutMs);
}
