/** What pgBackRest tells of a repository. Pure: its JSON in, our words out. */

/** `full`: everything. `differential`: what changed since the last full one; `incremental`: since the last of any kind. */
export type BackupKind = 'full' | 'differential' | 'incremental';

export interface Backup {
  /** Its name: `20261125-190723F`. */
  label: string;
  kind: BackupKind;
  startedAt: Date;
  /** From this moment on it can be restored. */
  endedAt: Date;
  /** Of the database then, in bytes. */
  databaseBytes: number;
  /** What it takes in the repository, without those that it builds on. */
  repositoryBytes: number;
  /** The log that it needs itself: names of segments. */
  firstSegment: string;
  lastSegment: string;
  /** Pages whose checksum was wrong when it was made. */
  isDamaged: boolean;
}

export interface RepositoryInfo {
  /** Of the present database, the oldest first. */
  backups: Backup[];
  /** Backups of databases that were here before: of another system identifier. */
  others: number;
  /** Where the present database's log lies in the repository: `15-1`; undefined before the first start. */
  archiveId: string | undefined;
  isRunning: boolean;
}

interface Answer {
  archive: { id: string; database: { id: number } }[];
  backup: {
    archive: { start: string; stop: string };
    database: { id: number };
    error?: boolean;
    info: { size: number; repository: { delta: number } };
    label: string;
    timestamp: { start: number; stop: number };
    type: 'full' | 'diff' | 'incr';
  }[];
  db: { id: number }[];
  status: { lock?: { backup?: { held?: boolean } } };
}

const KINDS = { full: 'full', diff: 'differential', incr: 'incremental' } as const;

export const NOTHING_YET: RepositoryInfo = {
  backups: [],
  others: 0,
  archiveId: undefined,
  isRunning: false,
};

/** @param json of `pgbackrest info --output=json` */
export function parseInfo(json: string): RepositoryInfo {
  const [stanza] = JSON.parse(json) as Answer[];
  if (!stanza || (stanza.db ?? []).length === 0) return NOTHING_YET;
  // The last that the stanza was made or upgraded for.
  const present = Math.max(...stanza.db.map(({ id }) => id));
  const own = stanza.backup.filter(({ database }) => database.id === present);
  return {
    backups: own
      .map(each => ({
        label: each.label,
        kind: KINDS[each.type],
        startedAt: new Date(each.timestamp.start * 1_000),
        endedAt: new Date(each.timestamp.stop * 1_000),
        databaseBytes: each.info.size,
        repositoryBytes: each.info.repository.delta,
        firstSegment: each.archive.start,
        lastSegment: each.archive.stop,
        isDamaged: each.error ?? false,
      }))
      .sort((a, b) => a.endedAt.getTime() - b.endedAt.getTime()),
    others: stanza.backup.length - own.length,
    archiveId: stanza.archive.find(({ database }) => database.id === present)?.id,
    isRunning: stanza.status.lock?.backup?.held ?? false,
  };
}

/** How far a backup or a restore is, from a line of its log: 0 to 100; undefined for other lines. */
export function percentOf(line: string): number | undefined {
  const text = /(?:backup|restore) file .*?\((?:[^()]*, )?[\d.]+[KMGTP]?i?B, ([\d.]+)%\)/.exec(
    line,
  )?.[1];
  return text === undefined ? undefined : Number(text);
}
