/** Which backup a restore begins with, and along which log it goes. Pure. */
import type { Backup } from '../../../engines/pgbackrest-info.ts';
import { BanyanError } from '../../../errors.ts';
import { backupFor, type Line, lineAt } from '../lines.ts';
import type { Target } from '../moment.ts';

export interface Choice {
  target: Target;
  backup: Backup;
  /** The line that is gone back to, and to which moment of it. */
  line: number;
  at: Date;
  /** The last timeline of that line; undefined: it is the present one, the highest. */
  timeline: number | undefined;
}

export class NoBackupYet extends BanyanError {
  constructor(repository: string) {
    super('NO_BACKUP', {
      what: 'There is no backup of this database to begin with',
      where: repository,
      remedy: 'Nothing was changed. `banyan backup` makes one while the database runs',
    });
  }
}

export class NoSuchBackup extends BanyanError {
  constructor(label: string, known: string[]) {
    super('NO_SUCH_BACKUP', {
      what: `No backup is called ${label}`,
      where: 'banyan backups',
      remedy: `Nothing was changed. There are: ${known.join(', ')}`,
    });
  }
}

export class BeforeFirstBackup extends BanyanError {
  constructor(at: Date, first: Date) {
    super('BEFORE_FIRST_BACKUP', {
      what: `No backup was made before ${at.toISOString()}: the earliest moment that can be restored is ${first.toISOString()}`,
      where: 'banyan backups',
      remedy: `Nothing was changed. Take a later moment: --to ${first.toISOString()}`,
    });
  }
}

/**
 * @param backups of the present database, the oldest first
 * @param repository for the error
 * @throws NoBackupYet, NoSuchBackup, BeforeFirstBackup
 */
export function choose(
  target: Target,
  backups: readonly Backup[],
  lines: readonly Line[],
  now: Date,
  repository: string,
): Choice {
  const [first] = backups;
  if (!first) throw new NoBackupYet(repository);
  const present = lines.length - 1;
  if (target.kind === 'backup') {
    const backup = backups.find(({ label }) => label === target.label);
    if (!backup)
      throw new NoSuchBackup(
        target.label,
        backups.map(({ label }) => label),
      );
    const line = lineAt(lines, backup.endedAt);
    const { timeline } = lines[line]!;
    return { target, backup, line, at: backup.endedAt, timeline };
  }
  const at = target.kind === 'latest' ? now : target.at;
  const line = target.kind === 'latest' ? present : lineAt(lines, at);
  const backup = backupFor(backups, lines, line, at);
  if (!backup) throw new BeforeFirstBackup(at, first.endedAt);
  return { target, backup, line, at, timeline: lines[line]!.timeline };
}
