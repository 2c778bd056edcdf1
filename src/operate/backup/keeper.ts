/**
 * The keeper: what the supervisor does for backups while the database runs. One round every few seconds:
 *
 *     the repository is ready for this database → nothing of the log is missing in it → a backup, when it is time
 *
 * Holds true here:
 * - One backup at a time: pgBackRest's own lock keeps a person's `banyan backup` and this one apart.
 * - What fails is tried again, and until it has worked `banyan status` says so.
 * - It changes nothing but the repository.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type DatabaseNode, dataFolderOf } from '../../engines/patroni-config.ts';
import { BackupUnderWay } from '../../engines/pgbackrest.ts';
import type { RepositoryInfo } from '../../engines/pgbackrest-info.ts';
import { BanyanError } from '../../errors.ts';
import { lockHolder } from '../../machines/lock.ts';
import { standingsOf } from '../database/cluster.ts';
import { ClusterHome } from '../database/cluster-home.ts';
import { withClient } from '../database/provision.ts';
import { type ClusterRecord, readDatabaseRecord } from '../database/record.ts';
import { superuserUrl } from '../database/running.ts';
import type { Deployment } from '../deployment.ts';
import { type ArchivingState, archivingState } from './archiving.ts';
import { coverageOf, parseSegment, segmentName, timelineOf } from './log-coverage.ts';
import { historyIn, logFilesIn } from './log-files.ts';
import type { Repository } from './repository.ts';
import { isUnderWay, readRestore } from './restore/journal.ts';
import { restoreLock } from './restore/standpoint.ts';
import { isDue, typeOfNext } from './schedule.ts';

const ROUND_MS = 3_000;
/** Asking costs a process or two of pgBackRest. */
const LOOK_EVERY_MS = 30_000;
/** After a failed backup: a full disk is not emptied within seconds. */
const RETRY_MS = 60_000;
const ANSWER_MS = 2_000;

export interface BackupStatus {
  repository: string;
  /** Undefined until the first one has been made. */
  last: { label: string; kind: string; endedAt: string } | undefined;
  /** When the next one is due; ISO 8601. */
  nextAt: string | undefined;
  isRunning: boolean;
  archiving: ArchivingState | undefined;
  /** Segments that are missing in the repository: no moment beyond the first can be restored from backups before. */
  missing: string[];
  /** What went wrong last, until it has worked again. */
  failure: { at: string; what: string } | undefined;
}

class RestoreLeft extends BanyanError {
  constructor() {
    super('RESTORE_CUT_OFF', {
      what: 'a restore was cut off in the middle, and no backup is made until `banyan restore --resume` or `--undo`',
    });
  }
}

export class BackupKeeper {
  readonly #deployment: Deployment;
  readonly #log: (text: string) => void;
  readonly #leaving = new AbortController();
  #running: Promise<void> = Promise.resolve();
  #opened: { settings: string; home: ClusterHome; repository: Repository } | undefined;
  #openedAt = Number.NEGATIVE_INFINITY;
  #repository: Repository | undefined;
  #info: RepositoryInfo | undefined;
  /** Scope and timeline that the repository was last seen to be ready for. */
  #readyFor = '';
  #lookedAt = Number.NEGATIVE_INFINITY;
  #retryAt = Number.NEGATIVE_INFINITY;
  #archiving: ArchivingState | undefined;
  #missing: string[] = [];
  #failure: BackupStatus['failure'];
  #isRunning = false;

  /** @param log where a line for a person goes */
  constructor(deployment: Deployment, log: (text: string) => void) {
    this.#deployment = deployment;
    this.#log = log;
  }

  start(): void {
    this.#running = this.#rounds();
  }

  /** A backup under way is broken off; the next one uses what it has copied. */
  async stop(): Promise<void> {
    this.#leaving.abort();
    await this.#running;
  }

  /** Undefined when no backups are made. */
  get status(): BackupStatus | undefined {
    const repository = this.#repository;
    if (!repository) return undefined;
    const last = this.#info?.backups.at(-1);
    return {
      repository: repository.folder,
      last: last && { label: last.label, kind: last.kind, endedAt: last.endedAt.toISOString() },
      nextAt:
        last && new Date(last.startedAt.getTime() + repository.settings.everyMs).toISOString(),
      isRunning: this.#isRunning,
      archiving: this.#archiving,
      missing: this.#missing,
      failure: this.#failure,
    };
  }

  async #rounds(): Promise<void> {
    const { signal } = this.#leaving;
    while (!signal.aborted) {
      try {
        await this.#round();
      } catch (error) {
        if (!signal.aborted) this.#fail(error);
      }
      await delay(ROUND_MS, undefined, { signal }).catch(() => {});
    }
  }

  async #round(): Promise<void> {
    const record = readDatabaseRecord(this.#deployment.paths);
    const cluster = record?.serving === 'cluster' ? record.cluster : undefined;
    if (!cluster?.settings.backup) {
      this.#repository = undefined;
      this.#failure = undefined;
      return;
    }
    // What it needs must not be deleted by a backup that ends meanwhile.
    if (isUnderWay(readRestore(this.#deployment.paths))) {
      if (await lockHolder(restoreLock(this.#deployment.paths))) return;
      throw new RestoreLeft();
    }
    const { home, repository } = await this.#open(cluster);
    this.#repository = repository;
    const primary = await primaryNow(home, cluster);
    if (!primary) return;
    const { node, timeline } = primary;
    this.#archiving = await withClient(
      superuserUrl(this.#deployment, node, 'postgres'),
      client => archivingState(client),
      { connectMs: ANSWER_MS, queryMs: ANSWER_MS },
    );
    const state = `${cluster.scope} ${timeline} ${repository.folder}`;
    const now = performance.now();
    if (state === this.#readyFor && now - this.#lookedAt < LOOK_EVERY_MS) return;
    if (state !== this.#readyFor) {
      await repository.ensureStanza(node);
      this.#readyFor = state;
    }
    this.#info = await repository.info();
    this.#missing = await this.#fillGaps(repository, node, timeline);
    this.#lookedAt = now;
    if (now < this.#retryAt) return;
    await this.#backUp(repository, node);
    this.#failure = undefined;
  }

  /** Kept while it works and the settings stay: programs are looked for, and the account's rights tried, by running them. */
  async #open(cluster: ClusterRecord): Promise<{ home: ClusterHome; repository: Repository }> {
    const settings = JSON.stringify(cluster.settings.backup);
    const now = performance.now();
    // When something is wrong, a folder that is another by now may be the reason.
    const isOld = this.#failure && now - this.#openedAt > LOOK_EVERY_MS;
    if (this.#opened?.settings !== settings || isOld) {
      this.#openedAt = now;
      const home = await ClusterHome.open(this.#deployment);
      const repository = (await home.repository(cluster.settings))!;
      this.#opened = { settings, home, repository };
    }
    return this.#opened;
  }

  /**
   * What the last primary did not come to archive is brought into the repository from the log of the present one.
   * @returns what is still missing since the last backup
   */
  async #fillGaps(repository: Repository, node: DatabaseNode, timeline: number): Promise<string[]> {
    const { archiveId, backups } = this.#info!;
    // From the last backup but one: one that was made just now says nothing about the log before it.
    const from = (backups.at(-2) ?? backups.at(-1))?.firstSegment;
    const first = from && parseSegment(from);
    const sinceLast = parseSegment(backups.at(-1)?.firstSegment ?? '');
    if (!archiveId || !first || !sinceLast) return [];
    const history = await historyIn(dataFolderOf(node), timeline);
    const look = async () =>
      coverageOf(await repository.archived(archiveId, from), first.number, timeline, history);
    const { missing } = await look();
    if (missing.length === 0) return [];
    const names = missing.map(number =>
      segmentName({ timeline: timelineOf(number, timeline, history), number }),
    );
    const { segments } = await logFilesIn(dataFolderOf(node));
    const there = names.filter(name => segments.includes(name));
    for (const name of there) await repository.push(dataFolderOf(node), name);
    if (there.length > 0) this.#log(`archived what the last primary had not: ${there.join(', ')}`);
    return names.filter(
      name => !there.includes(name) && parseSegment(name)!.number >= sinceLast.number,
    );
  }

  async #backUp(repository: Repository, node: DatabaseNode): Promise<void> {
    const { backups } = this.#info!;
    const { everyMs } = repository.settings;
    // Beyond a gap nothing can be restored before there is another backup.
    if (this.#missing.length === 0 && !isDue(backups, everyMs, new Date())) return;
    const type = typeOfNext(backups, everyMs, new Date());
    this.#isRunning = true;
    this.#log(`${type === 'full' ? 'a full' : 'an incremental'} backup begins`);
    try {
      await repository.backup(node, type, { signal: this.#leaving.signal });
    } catch (error) {
      if (error instanceof BackupUnderWay) return;
      this.#retryAt = performance.now() + RETRY_MS;
      throw error;
    } finally {
      this.#isRunning = false;
    }
    this.#missing = [];
    this.#info = await repository.info();
    this.#log(`backup ${this.#info.backups.at(-1)?.label} is made`);
  }

  #fail(error: unknown): void {
    const what = error instanceof BanyanError ? error.what : String(error);
    if (this.#failure?.what !== what) this.#log(`not this time: ${what}`);
    this.#failure = { at: new Date().toISOString(), what };
  }
}

/** Who is the primary at this moment; undefined when nobody is. */
export async function primaryNow(
  home: ClusterHome,
  cluster: ClusterRecord,
): Promise<{ node: DatabaseNode; timeline: number } | undefined> {
  const standings = await standingsOf(home, cluster, ANSWER_MS);
  const leader = standings.find(({ role, state }) => role === 'primary' && state === 'running');
  const node = cluster.nodes.find(({ name }) => name === leader?.name);
  return node && leader?.timeline ? { node, timeline: leader.timeline } : undefined;
}
