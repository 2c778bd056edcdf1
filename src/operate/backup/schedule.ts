/** When the next backup is due, and of which kind. Pure. */
import type { Backup } from '../../engines/pgbackrest-info.ts';
import type { BackupType } from './repository.ts';

/** A restore reads the last full backup and what builds on it: no longer a chain than this. */
export const FULL_EVERY = 7;

/** Several timers of a round each: nobody notices, and a backup is not late by its own duration each time. */
const EARLY_SHARE = 0.01;

export function isDue(backups: readonly Backup[], everyMs: number, now: Date): boolean {
  const last = backups.at(-1);
  return !last || now.getTime() - last.startedAt.getTime() >= everyMs * (1 - EARLY_SHARE);
}

/** What is made next: a full one when there is none, or the last is so old that seven have passed. */
export function typeOfNext(backups: readonly Backup[], everyMs: number, now: Date): BackupType {
  const full = backups.findLast(({ kind, isDamaged }) => kind === 'full' && !isDamaged);
  if (!full) return 'full';
  return now.getTime() - full.startedAt.getTime() >= everyMs * FULL_EVERY * (1 - EARLY_SHARE)
    ? 'full'
    : 'incr';
}
