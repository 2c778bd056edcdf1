/**
 * Keeps copies of columns right, by the log of every shard (`src/app/changes`).
 *
 * Why it comes to the right end, whatever happens in between: each write of the source, and **each write of the target,
 * its own ones too**, is looked at after it can be seen, against what the source is then. Take the last write of a
 * copy: when it is looked at, it is right, or it would be written again; and what changes the source later is looked at
 * later. So when nobody writes, each copy equals its source; and it does not matter who else writes, in which order
 * shards are read, how often an event comes, or what a keeper that was killed still had on the way.
 *
 * Holds true here:
 * - An event is acknowledged when all that it calls for is written, on all shards.
 * - A copy is filled once, and after each gap anew, while its events are dealt with already.
 * - The source is asked from the very server whose log is read, so its answer is not older than what was told.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { LRUCache } from 'lru-cache';
import type pg from 'pg';
import type { Change, ChangeEvent, Row, Transaction } from '../../../app/changes/change.ts';
import { ChangeReader, type ReaderProgress } from '../../../app/changes/reader.ts';
import { Ranges } from '../../../app/database/shards/ranges.ts';
import type { Member, RuntimeMap } from '../../../map/runtime-map.ts';
import type { Copy } from './copies.ts';
import { Settler, type TargetRow } from './settle.ts';

/** The name of the slot, and of the publication, on each shard. */
export const COPIES_SLOT = 'banyan_copies';

export interface KeeperOptions {
  readonly copies: readonly Copy[];
  /** As the map has them at the moment: their number and ranges stay, their members may change. */
  readonly shards: () => RuntimeMap['database']['shards'];
  /** A superuser's, without host and port. */
  readonly connection: pg.ClientConfig;
  readonly onTrouble: (error: unknown, what: string) => void;
}

export interface ShardStanding {
  /** Its id in the map. */
  shard: string;
  state: ReaderProgress['state'];
  /** Log that was written and not dealt with. */
  lagBytes: number | undefined;
  /** Since the oldest transaction was committed that was not dealt with. */
  lagSeconds: number | undefined;
  failure?: string;
}

export interface CopiesStanding {
  /** Which are filled: from then on they follow. */
  filled: string[];
  /** Which are being filled. */
  filling: string[];
  shards: ShardStanding[];
}

/** Transactions that are dealt with together. */
const MOST_TOGETHER = 200;
const MOST_WAITING = 1_000;
/** Of keys whose last value is remembered, to pass over writes of the source that did not change it. */
const REMEMBERED = 20_000;
const PAUSE_MS = 100;
const PAUSE_LIMIT_MS = 3_000;

const MARKS = `create table if not exists banyan.copies (
  name text primary key, spec text not null, filled_at timestamptz not null default now())`;

export class CopyKeeper {
  readonly #options: KeeperOptions;
  readonly #readers: ChangeReader[];
  readonly #settler: Settler;
  readonly #filled = new Set<string>();
  readonly #known = new LRUCache<string, { value: string | null }>({ max: REMEMBERED });
  readonly #failures: unknown[] = [];
  readonly #closing = new AbortController();
  readonly #broken = Promise.withResolvers<void>();
  /** It is known which copies an earlier keeper has filled. */
  readonly #knowsFilled = Promise.withResolvers<void>();
  #running: Promise<unknown> | undefined;

  constructor(options: KeeperOptions) {
    this.#options = options;
    const shards = options.shards();
    const tables = [
      ...new Set(
        options.copies.flatMap(({ source, target }) => [
          `${source.schema}.${source.table}`,
          `${target.schema}.${target.table}`,
        ]),
      ),
    ];
    this.#readers = shards.map(
      ({ id }, index) =>
        new ChangeReader({
          // While the map says to hold, the rows may be about to move: a superuser would get in all the same.
          members: (): readonly Member[] => {
            const shard = options.shards()[index];
            return shard && !shard.hold ? shard.members : [];
          },
          connection: options.connection,
          slot: COPIES_SLOT,
          publication: { name: COPIES_SLOT, tables },
          where: `shard ${id}`,
        }),
    );
    this.#settler = new Settler(
      {
        count: shards.length,
        query: (shard, text, values) => this.#readers[shard]!.query(text, values),
      },
      new Ranges(shards.map(({ range }) => range)),
    );
  }

  /** Begins. */
  start(): this {
    this.#running = Promise.all([
      ...this.#readers.map((_, shard) => this.#follow(shard)),
      this.#again('a copy could not be filled', 0, () => this.#fill()),
    ]);
    return this;
  }

  /** Resolves when a log cannot be read, and waiting does not mend it. */
  get broken(): Promise<void> {
    return this.#broken.promise;
  }

  /** Resolves when nothing of it runs any more. What was not acknowledged comes to the next. */
  async close(): Promise<void> {
    this.#closing.abort();
    this.#knowsFilled.resolve();
    for (const reader of this.#readers) reader.close();
    await this.#running;
  }

  standing(): CopiesStanding {
    const names = this.#options.copies.map(({ name }) => name);
    return {
      filled: names.filter(name => this.#filled.has(name)),
      filling: names.filter(name => !this.#filled.has(name)),
      shards: this.#readers.map(({ progress }, index) => {
        const { state, applied, serverLsn, pendingSince } = progress;
        const failure = this.#failures[index] ?? progress.failure;
        const knows = applied !== undefined && serverLsn !== undefined;
        const seconds = pendingSince ? (Date.now() - pendingSince.getTime()) / 1_000 : 0;
        return {
          shard: this.#options.shards()[index]?.id ?? String(index + 1),
          state,
          lagBytes: knows ? Number(serverLsn > applied ? serverLsn - applied : 0n) : undefined,
          lagSeconds: state === 'reading' ? Math.max(0, seconds) : undefined,
          ...(failure ? { failure: (failure as Error).message } : {}),
        };
      }),
    };
  }

  /** Reads one shard's log, ahead of what is dealt with. */
  async #follow(shard: number): Promise<void> {
    const reader = this.#readers[shard]!;
    const queue: ChangeEvent[] = [];
    let wake = Promise.withResolvers<void>();
    let isOver = false;
    const stir = () => {
      wake.resolve();
      wake = Promise.withResolvers();
    };
    const dealing = (async () => {
      while (!this.#closing.signal.aborted) {
        const batch = takeBatch(queue);
        if (batch.length === 0) {
          if (isOver) return;
          await wake.promise;
          continue;
        }
        stir();
        await this.#again('copies are behind', shard, () => this.#deal(shard, batch));
        if (!this.#closing.signal.aborted) await reader.applied(batch.at(-1)!);
      }
    })();
    try {
      for await (const event of reader.events()) {
        queue.push(event);
        stir();
        while (queue.length >= MOST_WAITING) await wake.promise;
      }
    } catch (error) {
      this.#failures[shard] = error;
      this.#options.onTrouble(error, `the log of shard ${shard + 1} cannot be read`);
      this.#broken.resolve();
    }
    isOver = true;
    stir();
    await dealing;
  }

  /** Until it succeeds: everything may be done again. */
  async #again(what: string, shard: number, run: () => Promise<void>): Promise<void> {
    for (let pause = PAUSE_MS; !this.#closing.signal.aborted; ) {
      try {
        await run();
        this.#failures[shard] = undefined;
        return;
      } catch (error) {
        if (this.#closing.signal.aborted) return;
        // A shard that is away for a moment is no news.
        if (pause > PAUSE_MS * 5) {
          this.#failures[shard] = error;
          this.#options.onTrouble(error, what);
        }
      }
      await delay(pause, undefined, { signal: this.#closing.signal }).catch(() => {});
      pause = Math.min(pause * 1.5, PAUSE_LIMIT_MS);
    }
  }

  async #deal(shard: number, batch: readonly ChangeEvent[]): Promise<void> {
    const [first] = batch;
    if (first?.kind === 'gap') return this.#closeGap(shard);
    const transactions = batch as readonly Transaction[];
    for (const copy of this.#options.copies) await this.#dealWith(copy, shard, transactions);
  }

  /** Nothing is known of what happened on this shard. A copy that is not filled yet will be, after this. */
  async #closeGap(shard: number): Promise<void> {
    await this.#knowsFilled.promise;
    this.#known.clear();
    for (const copy of this.#options.copies) {
      if (!this.#filled.has(copy.name)) continue;
      const targets = this.#settler.targetsOf(copy);
      const isWhole = this.#settler.ownsSource(copy, shard);
      for (const target of targets) {
        if (isWhole || target === shard) await this.#settler.settleAll(copy, target);
      }
    }
  }

  async #dealWith(copy: Copy, shard: number, transactions: readonly Transaction[]): Promise<void> {
    const keys = new Set<string>();
    const rows: TargetRow[] = [];
    const targets = this.#settler.targetsOf(copy);
    const isSource = this.#settler.ownsSource(copy, shard);
    const isTarget = targets.includes(shard);
    let isSourceWhole = false;
    let isTargetWhole = false;
    for (const change of transactions.flatMap(({ changes }) => changes)) {
      const isAll = change.kind === 'whole' || change.kind === 'truncate';
      if (isSource && isOf(change, copy.source)) {
        if (isAll) isSourceWhole = true;
        else for (const key of this.#changedKeys(copy, change)) keys.add(key);
      }
      if (isTarget && isOf(change, copy.target)) {
        if (isAll) isTargetWhole = true;
        else if (change.after) rows.push(targetRow(copy, change.after));
      }
    }
    if (isSourceWhole) {
      this.#known.clear();
      for (const target of targets) await this.#settler.settleAll(copy, target);
    } else {
      if (keys.size > 0) {
        const values = await this.#settler.settleKeys(copy, keys, targets);
        for (const [key, value] of values) this.#known.set(knownAs(copy, key), { value });
      }
      if (isTargetWhole) await this.#settler.settleAll(copy, shard);
    }
    // A row that came twice is as it was last.
    if (rows.length > 0) await this.#settler.settleRows(copy, shard, lastOfEach(rows));
  }

  /** The source's keys whose value may have changed. */
  *#changedKeys(copy: Copy, { kind, before, after }: Change): Generator<string> {
    const old = before?.[copy.sourceKey.name] ?? undefined;
    const now = after?.[copy.sourceKey.name] ?? undefined;
    if (old !== undefined && old !== now) yield old;
    if (now === undefined) return;
    const value = after?.[copy.from.name];
    if (kind === 'update' && old === now) {
      // A large value that was left as it was is not told.
      if (value === undefined) return;
      if (this.#known.get(knownAs(copy, now))?.value === value) return;
    }
    yield now;
  }

  /** Fills the copies that were not, and forgets those that are no more. */
  async #fill(): Promise<void> {
    const { copies } = this.#options;
    const [first] = this.#readers as [ChangeReader];
    await first.query(MARKS);
    await first.query(`do $$ begin execute format('alter table banyan.copies owner to %s',
      (select nspowner::regrole from pg_namespace where nspname = 'banyan')); end $$`);
    const { rows } = await first.query<{ name: string; spec: string }>(
      'select name, spec from banyan.copies',
    );
    const specs = new Map(rows.map(({ name, spec }) => [name, spec]));
    const names = copies.map(({ name }) => name);
    await first.query('delete from banyan.copies where not name = any ($1)', [names]);
    for (const copy of copies) if (specs.get(copy.name) === copy.spec) this.#filled.add(copy.name);
    this.#knowsFilled.resolve();
    const missing = copies.filter(({ name }) => !this.#filled.has(name));
    if (missing.length === 0) return;
    // What began before the table was published is in the log in part, or not at all.
    for (const reader of this.#readers) await reader.settled();
    for (const copy of missing) {
      for (const shard of this.#settler.targetsOf(copy)) await this.#settler.settleAll(copy, shard);
      await first.query(
        `insert into banyan.copies (name, spec) values ($1, $2)
         on conflict (name) do update set spec = excluded.spec, filled_at = now()`,
        [copy.name, copy.spec],
      );
      this.#filled.add(copy.name);
    }
  }
}

/** A gap is dealt with alone. */
function takeBatch(queue: ChangeEvent[]): ChangeEvent[] {
  const gap = queue.findIndex(({ kind }) => kind === 'gap');
  if (gap === 0) return queue.splice(0, 1);
  return queue.splice(0, Math.min(MOST_TOGETHER, gap < 0 ? queue.length : gap));
}

function isOf(change: Change, { schema, table }: { schema: string; table: string }): boolean {
  return change.table === table && change.schema === schema;
}

function targetRow({ key, via, column }: Copy, after: Row): TargetRow {
  return {
    key: key.map(({ name }) => after[name] ?? null),
    via: after[via.name] ?? null,
    copy: after[column.name],
  };
}

function lastOfEach(rows: readonly TargetRow[]): TargetRow[] {
  return [...new Map(rows.map(row => [JSON.stringify(row.key), row])).values()];
}

function knownAs({ name }: Copy, key: string): string {
  return `${name}\0${key}`;
}
