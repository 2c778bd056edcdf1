/**
 * `banyan restore`: the database as it was at a moment takes the place of the present one.
 *
 *     a moment of the past:  files, recovery │ stop │ switch folders │ start, copy to the replicas
 *     the latest:     stop │ files, recovery │      │ switch folders │ start, copy to the replicas
 *
 * Of the past everything can be made ready while the present one serves; for the latest it has to stand still
 * first, or what is acknowledged meanwhile would be missing. Until the folders switch a failure changes nothing.
 *
 * How far it came is in `.banyan/restore.json`; see `journal.ts`.
 */
import { existsSync } from 'node:fs';
import { chown, mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { dataFolderOf } from '../../../engines/patroni-config.ts';
import { BanyanError } from '../../../errors.ts';
import { OPERATION_LOCK } from '../../catalog.ts';
import { primaryOf } from '../../database/cluster.ts';
import { publishMembers } from '../../database/hold.ts';
import { withClient } from '../../database/provision.ts';
import type { ClusterRecord } from '../../database/record.ts';
import { superuserUrl } from '../../database/running.ts';
import type { Progress } from '../../operations/goal.ts';
import { OperationUnderWay } from '../../operations/journal.ts';
import { archiveAll } from '../archiving.ts';
import { afterRestore, FIRST_LINES } from '../lines.ts';
import { historyName, logFilesIn } from '../log-files.ts';
import { noteRestore, readCatalog, writeCatalog } from './carry-over.ts';
import { isUnderWay, type RestoreRecord, readRestore, writeRestore } from './journal.ts';
import { furthestKept } from './kept.ts';
import type { RestorePlan } from './plan.ts';
import { type Recovered, recover, type StopAt } from './recovery.ts';
import { salvage, salvageHistories } from './salvage.ts';
import type { Standpoint } from './standpoint.ts';
import {
  keptFolder,
  preparedFolder,
  startAsBefore,
  startRestored,
  stopNodes,
  swapBack,
  swapFolders,
} from './switch-line.ts';

export class RestoreCutOff extends BanyanError {
  constructor({ summary }: RestoreRecord) {
    super('RESTORE_CUT_OFF', {
      what: `${summary} was cut off in the middle`,
      where: '.banyan/restore.json',
      remedy:
        'Finish it with `banyan restore --resume`, or take it back with `banyan restore --undo`',
    });
  }
}

export class NothingRestored extends BanyanError {
  constructor(what: string) {
    super('NOTHING_RESTORED', {
      what,
      where: 'banyan restore',
      remedy: '`banyan operations` shows what was done; `banyan backups` what can be restored',
    });
  }
}

export class PrimaryChanged extends BanyanError {
  constructor(timeline: number) {
    super('PRIMARY_CHANGED', {
      what: 'Another database server became the primary while the restore was made ready',
      where: `timeline ${timeline}`,
      remedy: 'Nothing was changed. Try again',
    });
  }
}

export class RestoreFailed extends BanyanError {
  constructor(summary: string, cause: unknown) {
    const error = cause instanceof BanyanError ? cause : undefined;
    super('RESTORE_FAILED', {
      what: `It did not work, and the database is the one that was before. ${error?.what ?? String(cause)}`,
      where: summary,
      ...(error?.remedy ? { remedy: error.remedy } : {}),
      cause,
    });
  }
}

export interface Restored {
  summary: string;
  /** The last commit that it has; ISO 8601. Undefined when the backup held the last one already. */
  reachedAt: string | undefined;
  /** Where the old data are. */
  kept: string;
  /** It was made ready; `banyan up` starts it. */
  isUp: boolean;
}

/** @throws RestoreCutOff, MomentNotReached, RecoveryFailed, BackrestFailed, RestoreFailed */
export async function restore(
  at: Standpoint,
  plan: RestorePlan,
  progress: Progress = {},
): Promise<Restored> {
  const { deployment, record, primary } = at;
  const { paths } = deployment;
  const last = readRestore(paths);
  if (last?.state === 'switching') throw new RestoreCutOff(last);
  await requireNoOperation(at);
  const journal: RestoreRecord = {
    state: 'preparing',
    summary: plan.summary,
    startedAt: new Date().toISOString(),
    steps: [],
    before: record,
    after: record,
    primary: primary?.node.name,
    catalog: primary && (await catalogOf(at, primary.node)),
  };
  await writeRestore(paths, journal);
  const steps = new Steps(journal, plan.steps.length, progress);
  const { choice } = plan;
  const isLatest = choice.target.kind === 'latest';
  let isStopped = false;
  const stop = () =>
    steps.run('stop', () => {
      isStopped = true;
      return stopNodes(at.machine, record, primary?.node.name);
    });
  try {
    if (isLatest) await stop();
    else if (primary) await steps.run('archive', () => archiveNow(at, primary.node));
    await steps.run('files', () => fetchFiles(at, plan, steps));
    const stopAt: StopAt =
      choice.target.kind === 'time'
        ? { kind: 'time', at: choice.target.at }
        : { kind: isLatest ? 'end' : 'consistent' };
    const recovered = await steps.run('recover', () =>
      recover({
        ...at,
        dataFolder: preparedFolder(at.home),
        stopAt,
        timeline: choice.timeline,
      }),
    );
    if (!isLatest) await stop();
    await requireFree(at, plan.archiveId, recovered.timeline);
    journal.after = recordAfter(record, recovered, { line: choice.line, at: choice.at });
    journal.reachedAt = recovered.reachedAt?.toISOString();
  } catch (error) {
    // Nothing has changed places yet.
    await rm(path.dirname(preparedFolder(at.home)), { recursive: true, force: true });
    if (at.isUp && isStopped) await startAsBefore(at.machine, at.home, record);
    await writeRestore(paths, { ...journal, state: 'undone', endedAt: new Date().toISOString() });
    throw error;
  }
  await rm(keptFolder(at.home), { recursive: true, force: true });
  return switchTo(at, journal, steps);
}

/** Finishes a restore that was cut off when its folders had begun to change places. @throws NothingRestored */
export async function resumeRestore(at: Standpoint, progress: Progress = {}): Promise<Restored> {
  const journal = readRestore(at.deployment.paths);
  if (journal?.state !== 'switching') {
    throw new NothingRestored(
      journal?.state === 'preparing'
        ? 'The last restore was cut off before anything was changed: begin it again with --to'
        : 'No restore was cut off',
    );
  }
  await stopNodes(at.machine, journal.before, undefined);
  return switchTo(at, journal, new Steps(journal, 3, progress));
}

/**
 * Takes the last restore back: the folders that it put aside take the database's place again, on a new timeline, so that
 * their log and that of the restored one are told apart for ever.
 * @throws NothingRestored
 */
export async function undoRestore(
  at: Standpoint,
  progress: Progress = {},
): Promise<Restored | undefined> {
  const { deployment, home, record } = at;
  const { paths } = deployment;
  const last = readRestore(paths);
  if (!last || last.state === 'undone')
    throw new NothingRestored('There is no restore to take back');
  if (isUnderWay(last)) {
    await stopNodes(at.machine, last.before, undefined);
    if (last.state === 'switching') await swapBack(deployment, home, last.before);
    if (at.isUp) await startAsBefore(at.machine, home, last.before);
    await writeRestore(paths, { ...last, state: 'undone', endedAt: new Date().toISOString() });
    return undefined;
  }
  const source = await furthestKept(keptFolder(home), last.before, last.primary);
  if (!source) throw new NothingRestored('The restore put no data aside that could be read');
  const summary = `what was before the ${last.summary.replace(/^restore/, 'restore')}`;
  const journal: RestoreRecord = {
    state: 'preparing',
    summary,
    startedAt: new Date().toISOString(),
    steps: [],
    before: record,
    after: record,
    primary: at.primary?.node.name,
    catalog: at.primary && (await catalogOf(at, at.primary.node)),
  };
  const steps = new Steps(journal, 4, progress);
  const prepared = preparedFolder(home);
  await ownFolder(at, path.dirname(prepared));
  await rename(source, prepared);
  let isStopped = false;
  try {
    await salvageHistories(home, record, prepared);
    const lines = record.lines ?? [...FIRST_LINES];
    const left = lines.length - 2;
    const recovered = await steps.run('recover', () =>
      recover({
        ...at,
        dataFolder: prepared,
        stopAt: { kind: 'end' },
        timeline: lines[left]?.timeline,
      }),
    );
    journal.after = recordAfter(record, recovered, {
      line: Math.max(0, left),
      at: new Date(lines.at(-1)!.since),
    });
    journal.reachedAt = recovered.reachedAt?.toISOString();
    await steps.run('stop', () => stopNodes(at.machine, record, at.primary?.node.name));
    isStopped = true;
    const { archiveId } = await at.repository.info();
    if (archiveId) await requireFree(at, archiveId, recovered.timeline);
  } catch (error) {
    await rename(prepared, source);
    if (at.isUp && isStopped) await startAsBefore(at.machine, home, record);
    throw error;
  }
  await rm(keptFolder(home), { recursive: true, force: true });
  return switchTo(at, journal, steps);
}

/** From here on it is finished or taken back. */
async function switchTo(at: Standpoint, journal: RestoreRecord, steps: Steps): Promise<Restored> {
  const { machine, deployment, home, isUp } = at;
  const { paths } = deployment;
  const { before, after } = journal;
  journal.state = 'switching';
  await writeRestore(paths, journal);
  try {
    await steps.run('switch', () => swapFolders(deployment, home, before, after));
    if (isUp) {
      await steps.run('start', () => startRestored(machine, deployment, home, after));
      await steps.run('catalog', () => tellCatalog(at, journal));
      // The members are the same; a new epoch makes every pool look again.
      await publishMembers(paths, undefined);
    }
  } catch (error) {
    await stopNodes(machine, after, undefined);
    await swapBack(deployment, home, before);
    if (isUp) await startAsBefore(machine, home, before);
    await writeRestore(paths, { ...journal, state: 'undone', endedAt: new Date().toISOString() });
    throw new RestoreFailed(journal.summary, error);
  }
  await rm(path.dirname(preparedFolder(home)), { recursive: true, force: true });
  await writeRestore(paths, {
    ...journal,
    state: 'done',
    endedAt: new Date().toISOString(),
    catalog: undefined,
  });
  return {
    summary: journal.summary,
    reachedAt: journal.reachedAt,
    kept: keptFolder(home),
    isUp,
  };
}

async function archiveNow({ deployment }: Standpoint, node: { host: string; port: number }) {
  await withClient(superuserUrl(deployment, node, deployment.database), client =>
    archiveAll(client),
  );
}

async function fetchFiles(at: Standpoint, { choice, archiveId }: RestorePlan, steps: Steps) {
  const prepared = preparedFolder(at.home);
  await rm(path.dirname(prepared), { recursive: true, force: true });
  await ownFolder(at, path.dirname(prepared));
  await ownFolder(at, prepared);
  const { label, firstSegment } = choice.backup;
  await at.repository.restoreInto(prepared, label, {
    percent: percent => steps.note(`${Math.floor(percent)} % of backup ${label}`),
  });
  if (choice.target.kind === 'backup') return;
  const found = await salvage(at.home, at.record, at.repository, archiveId, prepared, firstSegment);
  if (found.segments.length > 0) {
    steps.note(`${found.segments.length} segments of the log came from the servers' own folders`);
  }
  if (found.notArchived) steps.note(`not archived: ${found.notArchived}`);
}

/** What runs now would be cut off in its middle. @throws OperationUnderWay */
async function requireNoOperation({ deployment, primary }: Standpoint): Promise<void> {
  if (!primary) return;
  const { database } = deployment;
  await withClient(superuserUrl(deployment, primary.node, database), async client => {
    const { rows } = await client.query<{ free: boolean }>(
      'select pg_try_advisory_lock($1) as free',
      [OPERATION_LOCK],
    );
    if (!rows[0]!.free) throw new OperationUnderWay('see `banyan operations`');
  });
}

/** Another primary may have been elected while this one was made ready, and have taken the same number. */
async function requireFree(at: Standpoint, archiveId: string, timeline: number): Promise<void> {
  const name = historyName(timeline);
  const archived = await at.repository.archived(archiveId, 'F'.repeat(24));
  const local = await Promise.all(at.record.nodes.map(node => logFilesIn(dataFolderOf(node))));
  const taken = archived.includes(name) || local.some(({ histories }) => histories.includes(name));
  if (taken) throw new PrimaryChanged(timeline);
}

/** The highest timeline before is the one before the new: PostgreSQL takes the next that the archive does not have. */
function recordAfter(
  record: ClusterRecord,
  { timeline }: Recovered,
  base: { line: number; at: Date },
): ClusterRecord {
  const lines = afterRestore(record.lines ?? FIRST_LINES, timeline - 1, base, new Date());
  const name = record.scope.replace(/-\d+$/, '');
  return { ...record, scope: `${name}-${lines.length}`, lines };
}

async function catalogOf({ deployment }: Standpoint, node: { host: string; port: number }) {
  return withClient(superuserUrl(deployment, node, deployment.database), readCatalog);
}

async function tellCatalog({ deployment, home }: Standpoint, journal: RestoreRecord) {
  const { catalog, summary, startedAt, after, steps } = journal;
  const primary = await primaryOf(home, after);
  await withClient(superuserUrl(deployment, primary, deployment.database), async client => {
    const { rows } = await client.query<{ there: boolean }>(
      `select to_regclass('banyan.releases') is not null as there`,
    );
    if (!rows[0]!.there) return;
    if (catalog) await writeCatalog(client, catalog);
    await noteRestore(client, summary, startedAt, steps);
  });
}

async function ownFolder({ home }: Standpoint, folder: string): Promise<void> {
  if (!existsSync(folder)) await mkdir(folder, { mode: 0o700 });
  if (home.account) await chown(folder, home.account.uid, home.account.gid);
}

const WORDS = {
  stop: 'stop the database servers',
  archive: 'bring the log up to now into the repository',
  files: 'fetch the backup, and what the servers have of the log',
  recover: 'replay the log',
  switch: 'put the old data aside, and the restored in their place',
  start: 'start the restored database and copy it to the replicas',
  catalog: 'note what was done',
};

/** Tells and notes each step. */
class Steps {
  readonly #journal: RestoreRecord;
  readonly #total: number;
  readonly #progress: Progress;

  constructor(journal: RestoreRecord, total: number, progress: Progress) {
    this.#journal = journal;
    this.#total = total;
    this.#progress = progress;
  }

  async run<T>(step: keyof typeof WORDS, body: () => Promise<T>): Promise<T> {
    const { steps } = this.#journal;
    const what = WORDS[step];
    this.#progress.begin?.(what, steps.length + 1, Math.max(this.#total, steps.length + 1));
    const begun = performance.now();
    const result = await body();
    const ms = performance.now() - begun;
    steps.push({ what, ms: Math.round(ms) });
    await this.#progress.done?.(what, ms);
    return result;
  }

  note(text: string): void {
    this.#progress.note?.(text);
  }
}
