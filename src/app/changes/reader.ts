/**
 * Reads the committed transactions of one database cluster from its log, for as long as it is wanted: through broken
 * connections, restarts and changes of the primary.
 *
 * Holds true here:
 * - Transactions come in the order of their commits, each once it is **visible** to who asks the primary (`snapshot.ts`):
 *   so it has been acknowledged by the synchronous standby, and no failover takes it back.
 * - What was not acknowledged comes again after a break: at least once. Dealing with it twice must do no harm.
 * - Nothing is left out in silence: where the log cannot be told, a gap is, and after it a query sees all that
 *   was committed before.
 * - Of several readers with one slot, in whatever process, one reads and the others wait for their turn.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type pg from 'pg';
import { hasCode } from '../../errors.ts';
import { log } from '../telemetry/log.ts';
import { checkLevel, explain, isUnreadable, withoutLimits } from './access.ts';
import { type ChangeEvent, formatLsn, type Gap, type Lsn, type Transaction } from './change.ts';
import { NotReading } from './errors.ts';
import { type Address, abandon, askInTurn, connect, findPrimary, type Primary } from './primary.ts';
import { type PublicationOptions, preparePublication } from './publication.ts';
import { type Ask, currentSnapshot, untilAllEnded } from './settle.ts';
import {
  dropSlot,
  endGap,
  judge,
  makeSlot,
  type Note,
  prepareNotes,
  readNote,
  readSlot,
  type Whereabouts,
  whereabouts,
  writeNote,
} from './slot.ts';
import { fullXid, hasEnded, type Snapshot } from './snapshot.ts';
import { LogStream } from './stream.ts';

export interface ChangeReaderOptions {
  /** The cluster's members at the moment, in any order: `() => map.current.database.shards[0].members`. */
  readonly members: () => readonly Address[];
  /**
   * User, password, database, TLS: of a superuser, or of a role with REPLICATION that owns the tables and may make
   * the schema `banyan`. Host and port are the members'.
   */
  readonly connection: pg.ClientConfig;
  /** Lower case letters, digits and underscores. One for each purpose; readers of the same one take turns. */
  readonly slot: string;
  readonly publication: PublicationOptions;
  /** Names the cluster in errors and in the log: `shard 2`. Default: the slot's name. */
  readonly where?: string;
  /** A transaction with more is told as the tables that it touched. Default: 10,000. */
  readonly maxChanges?: number;
  /** The same in bytes of log. Default: 16 MB. */
  readonly maxBytes?: number;
}

export type ReaderState =
  /** There is no primary, or it was not reached yet. */
  | 'searching'
  /** Another reads with the slot. */
  | 'waiting'
  /** Makes a slot: waits until the transactions that run now have ended. */
  | 'preparing'
  | 'reading'
  | 'closed';

export interface ReaderProgress {
  readonly state: ReaderState;
  /** What kept it from reading last; undefined while it reads. */
  readonly failure: unknown;
  /** All before it was dealt with. */
  readonly applied: Lsn | undefined;
  /** The end of the server's log, as last heard. */
  readonly serverLsn: Lsn | undefined;
  /** When the oldest transaction was committed that was told and not acknowledged; undefined when there is none. */
  readonly pendingSince: Date | undefined;
}

const MAX_CHANGES = 10_000;
const MAX_BYTES = 16 * 1024 * 1024;
/** Between two attempts to read. */
const PAUSE_MS = 50;
const PAUSE_LIMIT_MS = 1_000;
/**
 * Between two looks whether a transaction can be seen: most can at once, others when the synchronous standby has answered, which takes
 * milliseconds. So it is told at most a quarter of that late.
 */
const LOOK_MS = 1;
const LOOK_GROWTH = 1.25;
const LOOK_LIMIT_MS = 50;
/** A log that cannot be read this many times in a row, without a step forward, is given up. */
const MAX_UNREADABLE = 5;

interface Session {
  readonly here: Whereabouts;
  readonly primary: Primary;
  readonly stream: LogStream;
  readonly gap: Gap | undefined;
  /** What was told in it: a position of another session may be one of another cluster. */
  readonly told: WeakSet<ChangeEvent>;
}

export class ChangeReader {
  readonly #options: ChangeReaderOptions;
  readonly #where: string;
  readonly #id = randomUUID();
  readonly #closing = new AbortController();
  #session: Session | undefined;
  #state: ReaderState = 'searching';
  #failure: unknown;
  /** What was last acknowledged. */
  #applied: Lsn | undefined;
  /** The end of the last transaction that was dealt with: unlike the place that is acknowledged on idle, all have it. */
  #dealtWith: Lsn | undefined;
  /** The ends and times of what was told and not acknowledged. */
  #pending: { endLsn: Lsn; committedAt: Date }[] = [];
  #openGap: Gap | undefined;
  #snapshot: Snapshot | undefined;
  /** How often the server failed to read its log since the last step forward. */
  #unreadable = 0;
  #isIterated = false;

  constructor(options: ChangeReaderOptions) {
    if (!/^[a-z0-9_]{1,63}$/.test(options.slot)) {
      throw new TypeError(`not a name for a replication slot: ${options.slot}`);
    }
    this.#options = options;
    this.#where = options.where ?? options.slot;
  }

  get progress(): ReaderProgress {
    const stream = this.#session?.stream;
    const acknowledged = stream?.acknowledged;
    return {
      state: this.#state,
      failure: this.#failure,
      applied: this.#openGap ? undefined : (acknowledged ?? this.#applied),
      serverLsn: stream?.heard.serverLsn,
      pendingSince: this.#pending[0]?.committedAt,
    };
  }

  /**
   * The transactions and gaps, in order, until `close`. One loop for each reader.
   * @throws WalLevelTooLow, MayNotReadLog, NoSlotLeft, NoIdentity, NoSuchTable, or a BanyanError of the like: what
   *   waiting does not mend. Everything else is tried again
   */
  async *events(): AsyncGenerator<ChangeEvent, void, undefined> {
    if (this.#isIterated) throw new Error('a reader is read by one loop');
    this.#isIterated = true;
    try {
      for (let pause = PAUSE_MS; !this.#closing.signal.aborted; ) {
        try {
          const session = await this.#open();
          pause = PAUSE_MS;
          if (session.gap) yield session.gap;
          for (;;) yield await this.#next(session);
        } catch (error) {
          this.#leave(error);
          if (this.#closing.signal.aborted) return;
          const final = explain(error, this.#where);
          if (final) throw final;
        }
        await delay(pause, undefined, { signal: this.#closing.signal }).catch(() => {});
        pause = Math.min(pause * 1.5, PAUSE_LIMIT_MS);
      }
    } finally {
      // The loop may have been left, by `break` or by an error.
      this.close();
    }
  }

  /**
   * An event has been dealt with, and all before it: it will not come again, unless the connection broke meanwhile. Of
   * a gap that is written down; when that fails, the gap is told again.
   */
  async applied(event: ChangeEvent): Promise<void> {
    const { kind, endLsn } = event;
    const session = this.#session;
    if (!session?.told.has(event)) return;
    if (kind === 'gap') {
      if (this.#openGap?.endLsn !== endLsn) return;
      try {
        await endGap(session.primary.client, this.#options.slot, this.#id);
      } catch (error) {
        session.stream.end(error as Error);
        return;
      }
      this.#openGap = undefined;
    }
    // The gap is acknowledged first: what comes after it counts only with it.
    if (this.#openGap || session !== this.#session) return;
    this.#pending = this.#pending.filter(each => each.endLsn > endLsn);
    if (kind === 'transaction') this.#dealtWith = endLsn;
    session.stream.acknowledge(endLsn);
    this.#applied = session.stream.acknowledged;
  }

  /** The server that is read now, and its history; another object for each connection. Undefined while none is read. */
  get here(): Whereabouts | undefined {
    return this.#session?.here;
  }

  /**
   * Asks the server how far it is; `progress` tells the answer, which is there a moment later. For whoever has to know
   * sooner than within a second that nothing more was committed.
   */
  ask(): void {
    this.#session?.stream.ask();
  }

  /** Makes the publication anew: after the schema has changed. Also done each time that it connects. */
  async refreshPublication(): Promise<void> {
    const client = this.#session?.primary.client;
    if (client) await preparePublication(client, this.#options.publication, this.#where);
  }

  /**
   * Asks the server that is read. Of a server that has been replaced and does not know it, nothing is told either: what
   * is seen here is never older than what was told.
   * @throws NotReading, and what the query throws
   */
  async query<R extends pg.QueryResultRow>(
    text: string,
    values?: unknown[],
  ): Promise<pg.QueryResult<R>> {
    const client = this.#session?.primary.client;
    if (!client) throw new NotReading(this.#where);
    return askInTurn<R>(client, text, values);
  }

  /** Resolves when all transactions that run now have ended. @throws NotReading */
  async settled(): Promise<void> {
    const client = this.#session?.primary.client;
    if (!client) throw new NotReading(this.#where);
    await untilAllEnded(asking(client));
  }

  /** Ends it. The slot stays, and keeps the log for the next reader: {@link removeSlot} takes it away. */
  close(): void {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort();
    this.#leave(undefined);
    this.#state = 'closed';
  }

  async #next(session: Session): Promise<Transaction> {
    const { bytes: _, shortXid, ...transaction } = await session.stream.next();
    this.#unreadable = 0;
    const xid = await this.#untilVisible(session.primary.client, shortXid);
    this.#pending.push({ endLsn: transaction.endLsn, committedAt: transaction.committedAt });
    const told = { ...transaction, xid };
    session.told.add(told);
    return told;
  }

  async #untilVisible(client: pg.Client, shortXid: number): Promise<bigint> {
    let snapshot = this.#snapshot ?? (await currentSnapshot(asking(client)));
    for (let pause = 0; ; pause = Math.min(Math.max(LOOK_MS, pause * LOOK_GROWTH), LOOK_LIMIT_MS)) {
      const xid = fullXid(shortXid, snapshot);
      if (hasEnded(xid, snapshot)) {
        this.#snapshot = snapshot;
        return xid;
      }
      // The first one is mostly older than the transaction: it is asked for again at once.
      if (pause > 0) await delay(pause);
      snapshot = await currentSnapshot(asking(client));
    }
  }

  async #open(): Promise<Session> {
    const { members, connection, slot, publication } = this.#options;
    const config = withoutLimits(connection);
    this.#snapshot = undefined;
    const primary = await findPrimary(members(), config);
    const { client } = primary;
    let replication: pg.Client | undefined;
    const giveUp = () => {
      abandon(client);
      if (replication) abandon(replication);
    };
    this.#closing.signal.addEventListener('abort', giveUp);
    try {
      this.#closing.signal.throwIfAborted();
      await checkLevel(client, this.#where);
      replication = await connect(primary.address, {
        ...config,
        replication: 'database',
      } as pg.ClientConfig);
      const here = await whereabouts(replication);
      await preparePublication(client, publication, this.#where);
      await prepareNotes(client);
      const { note, gap } = await this.#prepareSlot(client, here);
      const confirmed = (await readSlot(client, slot))?.confirmed ?? 0n;
      // What was acknowledged just before a break may not have been written down by the server.
      const isOurs = !gap && note?.reader === this.#id && note.timeline === here.timeline;
      const from = isOurs && this.#applied! > confirmed ? this.#applied! : confirmed;
      const stream = await LogStream.start(replication, {
        slot,
        publication: publication.name,
        limits: {
          maxChanges: this.#options.maxChanges ?? MAX_CHANGES,
          maxBytes: this.#options.maxBytes ?? MAX_BYTES,
        },
        from,
      });
      void stream.ended.then(() => abandon(client));
      client.once('end', () => stream.end(new Error('the connection beside the stream ended')));
      // Only now the slot is ours alone: what was judged before may have been changed by who had it.
      if (!isDeepStrictEqual(await readNote(client, slot), note)) {
        throw new Error('another reader had the slot in between');
      }
      const { system, timeline } = here;
      await writeNote(client, slot, { system, timeline, reader: this.#id, gap });
      // What was committed in the log but not visible when a slot was made is in neither: the log tells what came later.
      if (gap) await untilAllEnded(asking(client));
      const told: Gap | undefined = gap && { kind: 'gap', ...gap, endLsn: from };
      return this.#begin({
        here,
        primary,
        stream,
        gap: told,
        told: new WeakSet(told ? [told] : []),
      });
    } catch (error) {
      giveUp();
      throw error;
    } finally {
      this.#closing.signal.removeEventListener('abort', giveUp);
    }
  }

  /** @returns the note as it was left, and the gap that there is */
  async #prepareSlot(
    client: pg.Client,
    here: Whereabouts,
  ): Promise<{ note: Note | undefined; gap: Note['gap'] }> {
    const { slot } = this.#options;
    const found = await readSlot(client, slot);
    const note = await readNote(client, slot);
    const judgement = judge(here, found, note, {
      reader: this.#id,
      acknowledged: this.#applied,
      dealtWith: this.#dealtWith,
      isUnreadable: this.#unreadable >= MAX_UNREADABLE,
    });
    if (judgement.verdict === 'go on') return { note, gap: undefined };
    const { reason, from, makes } = judgement;
    const gap = { reason, from };
    if (!makes) return { note, gap };
    const { system, timeline } = here;
    const noted: Note = { system, timeline, reader: this.#id, gap };
    this.#state = 'preparing';
    if (found) await dropSlot(client, slot);
    await writeNote(client, slot, noted);
    await makeSlot(client, slot);
    this.#unreadable = 0;
    return { note: noted, gap };
  }

  #begin(session: Session): Session {
    const { gap, stream } = session;
    if (this.#closing.signal.aborted) throw new Error('the reader has been closed');
    this.#session = session;
    this.#state = 'reading';
    this.#failure = undefined;
    this.#openGap = gap;
    this.#applied = stream.acknowledged;
    this.#pending = gap ? [{ endLsn: gap.endLsn, committedAt: new Date() }] : [];
    if (gap) {
      const { reason, from } = gap;
      log[reason === 'first' ? 'info' : 'warn'](
        { where: this.#where, reason, from: from && formatLsn(from), to: formatLsn(gap.endLsn) },
        'what happened in a part of the log is not known',
      );
    }
    return session;
  }

  #leave(error: unknown): void {
    const session = this.#session;
    this.#session = undefined;
    this.#openGap = undefined;
    this.#pending = [];
    if (session) {
      this.#applied = session.stream.acknowledged;
      session.stream.end();
      abandon(session.primary.client);
    }
    if (isUnreadable(error)) this.#unreadable++;
    this.#failure = error;
    this.#state = hasCode(error, '55006') ? 'waiting' : 'searching';
  }
}

function asking(client: pg.Client): Ask {
  return text => askInTurn(client, text);
}
