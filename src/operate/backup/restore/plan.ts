/** What a restore would do, and what would be lost: told before anything is touched. */

import { existsSync } from 'node:fs';
import { BanyanError } from '../../../errors.ts';
import { requireDisk } from '../../database/room.ts';
import { FIRST_LINES } from '../lines.ts';
import type { Target } from '../moment.ts';
import { type Choice, choose } from './choose.ts';
import { readRestore } from './journal.ts';
import type { Standpoint } from './standpoint.ts';
import { keptFolder } from './switch-line.ts';

export interface RestorePlan {
  choice: Choice;
  archiveId: string;
  summary: string;
  /** In the order in which they are done. */
  steps: { what: string; traffic: string }[];
  /** What cannot be had afterwards, and what should be known. */
  notes: string[];
}

const NOTHING = 'nothing';
const AWAY = 'the database is away: requests wait, and fail after 28 s';
const MEGABYTE = 1024 * 1024;

/** @throws NoBackupYet, NoSuchBackup, BeforeFirstBackup, NoRoom */
export async function planRestore(at: Standpoint, target: Target): Promise<RestorePlan> {
  const { repository, record, primary, isUp, home } = at;
  const info = await repository.info();
  const now = new Date();
  const choice = choose(target, info.backups, record.lines ?? FIRST_LINES, now, repository.folder);
  if (!info.archiveId) throw new BanyanError('NO_ARCHIVE', { what: 'The repository has no log' });
  const megabytes = Math.ceil(choice.backup.databaseBytes / MEGABYTE);
  await requireDisk(home.folder, record.nodes.length, megabytes);
  const isLatest = target.kind === 'latest';
  const { label, kind } = choice.backup;
  const goal = isLatest ? 'the last moment that can be reached' : choice.at.toISOString();
  const files = {
    what: `fetch the ${kind} backup ${label} (${megabytes} MB), and what the servers have of the log`,
    traffic: isLatest && isUp ? AWAY : NOTHING,
  };
  const recover = {
    what:
      target.kind === 'backup'
        ? 'bring it up as it was then'
        : `replay the log to ${isLatest ? 'its end' : goal}`,
    traffic: isLatest && isUp ? AWAY : NOTHING,
  };
  const stop = { what: 'stop the database servers', traffic: AWAY };
  const begin = isLatest
    ? isUp
      ? [stop, files, recover]
      : [files, recover]
    : [
        ...(primary
          ? [{ what: 'bring the log up to now into the repository', traffic: NOTHING }]
          : []),
        files,
        recover,
        ...(isUp ? [stop] : []),
      ];
  const replicas = record.nodes.length - 1;
  return {
    choice,
    archiveId: info.archiveId,
    summary: `restore of the database to ${isLatest ? 'the latest' : goal}`,
    steps: [
      ...begin,
      { what: `put the old data aside, in ${keptFolder(home)}`, traffic: isUp ? AWAY : NOTHING },
      ...(isUp
        ? [
            {
              what: `start the restored database and copy it to ${replicas === 1 ? 'the replica' : `${replicas} replicas`}`,
              traffic: AWAY,
            },
            { what: 'note what was done', traffic: NOTHING },
          ]
        : []),
    ],
    notes: [...lossNotes(at, choice, now), ...keptNotes(at)],
  };
}

function lossNotes({ primary, isUp }: Standpoint, choice: Choice, now: Date): string[] {
  const { target, at } = choice;
  if (target.kind === 'latest') {
    return [
      primary
        ? 'nothing that was acknowledged is lost: the log of the servers is used to its end'
        : 'the log of the servers is used as far as it can be read; where it cannot, the last minute is not in the repository. What was reached is told at the end',
      ...(isUp ? [] : ['the deployment is not up: it is made ready, and `banyan up` starts it']),
    ];
  }
  return [
    `everything that was written after ${at.toISOString()} is taken back (${span(now.getTime() - at.getTime())}); until the next restore it is kept, and \`banyan restore --undo\` brings it back`,
    'the schema is that of then: migrations since then run again with the next `banyan up` or `banyan release`; other stores (files, other services) are not restored',
    ...(isUp ? [] : ['the deployment is not up: it is made ready, and `banyan up` starts it']),
  ];
}

function keptNotes({ deployment, home }: Standpoint): string[] {
  const last = readRestore(deployment.paths);
  if (!last || !existsSync(keptFolder(home))) return [];
  return [`what the restore of ${last.startedAt} put aside is deleted`];
}

function span(ms: number): string {
  const minutes = ms / 60_000;
  if (minutes < 2) return `${Math.round(ms / 1_000)} s`;
  return minutes < 120 ? `${Math.round(minutes)} min` : `${Math.round(minutes / 60)} h`;
}
