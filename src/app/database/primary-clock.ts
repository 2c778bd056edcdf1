/**
 * Where a primary is: its snapshot and the end of its log, asked over a connection of its own.
 *
 * Holds true here:
 * - An answer is of after it was asked for: who asks while a question is under way shares the next one with all others who do.
 * - One that takes too long fails, and its connection is given up.
 * - A process is not kept alive by it.
 */
import type pg from 'pg';
import { endOfLastRecord } from './consistency/position.ts';
import { addressOf } from './statement.ts';
import { CURRENT_TIMELINE } from './timelines.ts';

export interface Moment {
  /** The end of the log just before the snapshot was taken. */
  readonly before: bigint;
  /** `pg_current_snapshot()`. */
  readonly snapshot: string;
  /** The end of the log just after the snapshot was taken. */
  readonly lsn: bigint;
  readonly timeline: number;
  /** `host:port` of the server that said so. */
  readonly address: string;
}

/**
 * Two statements in one message. The snapshot of a statement is taken before anything of it is computed, so the end of the log before
 * it has to be asked by an earlier one. A standby refuses both.
 */
const QUESTION = `
  select (pg_current_wal_insert_lsn() - '0/0')::text as before;
  select pg_current_snapshot()::text as snapshot,
    (pg_current_wal_insert_lsn() - '0/0')::text as lsn,
    pg_size_bytes(current_setting('wal_segment_size'))::text as segment,
    (${CURRENT_TIMELINE})::text as timeline`;

type Row = Record<'snapshot' | 'lsn' | 'segment' | 'timeline', string>;
type Answers = readonly [pg.QueryResult<{ before: string }>, pg.QueryResult<Row>];

const AS_TEXT = { getTypeParser: () => (value: string) => value };

type Refable = pg.Client & { ref(): void; unref(): void; connection: pg.Connection };

export class PrimaryClock {
  readonly #open: () => Promise<pg.Client>;
  #client: Promise<Refable> | undefined;
  #current: Promise<Moment> | undefined;
  #next: Promise<Moment> | undefined;
  #isClosed = false;

  /** @param open a connection to the primary, whose queries have a limit of time */
  constructor(open: () => Promise<pg.Client>) {
    this.#open = open;
  }

  /** @throws what connecting and querying throw */
  now(): Promise<Moment> {
    if (!this.#current) return this.#begin();
    this.#next ??= this.#current.then(
      () => this.#begin(),
      () => this.#begin(),
    );
    return this.#next;
  }

  close(): void {
    this.#isClosed = true;
    this.#client?.then(client => client.end()).catch(() => {});
    this.#client = undefined;
  }

  #begin(): Promise<Moment> {
    this.#next = undefined;
    const asked = this.#ask();
    this.#current = asked;
    const over = () => {
      if (this.#current === asked) this.#current = undefined;
    };
    asked.then(over, over);
    return asked;
  }

  async #ask(): Promise<Moment> {
    const client = await this.#connected();
    client.ref();
    try {
      const answers: unknown = await client.query({ text: QUESTION, types: AS_TEXT });
      const [first, second] = answers as Answers;
      const { snapshot, lsn, segment, timeline } = second.rows[0]!;
      const endOf = (text: string) => endOfLastRecord(BigInt(text), BigInt(segment));
      return {
        before: endOf(first.rows[0]!.before),
        snapshot,
        lsn: endOf(lsn),
        timeline: Number(timeline),
        address: addressOf(client),
      };
    } catch (error) {
      this.#client = undefined;
      client.connection.stream.destroy();
      throw error;
    } finally {
      client.unref();
    }
  }

  #connected(): Promise<Refable> {
    if (this.#isClosed) return Promise.reject(new Error('the pool has ended'));
    if (this.#client) return this.#client;
    const connecting = this.#open().then(opened => {
      const client = opened as Refable;
      const gone = () => {
        if (this.#client === connecting) this.#client = undefined;
      };
      client.on('error', gone);
      client.on('end', gone);
      return client;
    });
    this.#client = connecting;
    connecting.catch(() => {
      if (this.#client === connecting) this.#client = undefined;
    });
    return connecting;
  }
}
