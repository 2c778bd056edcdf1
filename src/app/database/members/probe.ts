/**
 * One member's connection of the monitor's own, and the question that it is asked: what are you, and how far
 * have you got?
 *
 * Holds true here:
 * - One question is in flight at a time. Who asks while one is gets the answer to the next one, together with
 *   all others who ask meanwhile, or that of the one in flight when that is late enough for them.
 * - A question that takes too long fails, and its connection is given up: a frozen server keeps nobody.
 * - When the connection breaks, what was known is not true any more: a standby that crashed comes back with
 *   less replayed than it had.
 * - A process is not kept alive by it, but while somebody waits for an answer.
 */
import pg from 'pg';
import { endOfLastRecord, tick } from '../consistency/position.ts';

/** What a member said of itself. */
export interface Answer {
  readonly isStandby: boolean;
  readonly timeline: number | undefined;
  /** Of a primary where its last record ended, of a standby what it has replayed. */
  readonly lsn: bigint;
  /** What a standby has on its disk; of a primary, `lsn`. */
  readonly received: bigint;
  /**
   * Of a standby whose receiver is down: it has replayed all of what it received. It may never show that by
   * `lsn`: what it received may end within a record.
   */
  readonly isDrained: boolean;
  /** Of a primary: a commit waits until a standby has it on its disk. */
  readonly isSynchronous: boolean;
  /** The moment when the question was sent: as a tick, and by `performance.now()`. */
  readonly asked: number;
  readonly askedAt: number;
}

/**
 * Texts in all columns, whatever parsers the application has set. `offset 0` keeps the role from being asked
 * once for each use: it might change in between. The receiver's timeline is shown to members of `pg_monitor`
 * alone; that of the last checkpoint lags behind it. The startup process waits for the retry interval only when
 * the receiver has ended and `pg_wal` has been read once more to its end (`WaitForWALToBecomeAvailable`,
 * xlogrecovery.c); while it does, nothing is received.
 */
const QUESTION = {
  name: 'banyan_monitor',
  text: `
    select standby::text,
      (case when standby then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end
        - '0/0'::pg_lsn)::text as lsn,
      (case when standby then pg_last_wal_receive_lsn() end - '0/0'::pg_lsn)::text as received,
      case when not standby then substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) end
        as timeline,
      case when standby then (select received_tli::text from pg_stat_wal_receiver
                              where status = 'streaming') end
        as received_timeline,
      (case when standby then (
        select wait_event from pg_stat_activity where backend_type = 'startup') end
        = 'RecoveryRetrieveRetryInterval')::text as drained,
      case when standby then (select timeline_id::text from pg_control_checkpoint()) end
        as checkpoint_timeline,
      pg_size_bytes(current_setting('wal_segment_size'))::text as segment_bytes,
      (current_setting('synchronous_standby_names') <> '')::text as synchronous
    from (select pg_is_in_recovery() as standby offset 0) as role`,
};

interface Row {
  standby: string;
  lsn: string | null;
  received: string | null;
  timeline: string | null;
  received_timeline: string | null;
  drained: string | null;
  checkpoint_timeline: string | null;
  segment_bytes: string;
  synchronous: string;
}

const AS_TEXT = { getTypeParser: () => (value: string) => value };

interface Question {
  readonly asked: number;
  readonly answer: Promise<Answer>;
}

export interface ProbeEvents {
  onAnswer(answer: Answer): void;
  /** No answer, and none to the questions before it counts any more. */
  onFailure(error: unknown): void;
}

/** Parts of a client that the types leave out. */
type Refable = pg.Client & { ref(): void; unref(): void; connection: pg.Connection };

export class Probe {
  readonly #config: pg.ClientConfig;
  readonly #timeoutMs: number;
  readonly #events: ProbeEvents;
  #client: Refable | undefined;
  #current: Question | undefined;
  #next: Promise<Answer> | undefined;
  /** The last known timeline of a standby's receiver. */
  #timeline = 0;
  #closed = false;

  /** @param config whom to connect to */
  constructor(config: pg.ClientConfig, timeoutMs: number, events: ProbeEvents) {
    this.#config = {
      ...config,
      connectionTimeoutMillis: timeoutMs,
      query_timeout: timeoutMs,
    };
    this.#timeoutMs = timeoutMs;
    this.#events = events;
  }

  /**
   * Asks, or shares a question with others.
   * @param since the answer is to one that was sent after this tick
   * @throws what connecting and querying throw
   */
  ask(since: number): Promise<Answer> {
    const current = this.#current;
    if (!current) return this.#begin();
    if (current.asked > since) return current.answer;
    this.#next ??= current.answer.then(
      () => this.#beginNext(),
      () => this.#beginNext(),
    );
    return this.#next;
  }

  /** Gives the connection up. It may be asked again. */
  disconnect(): void {
    const client = this.#client;
    this.#client = undefined;
    client?.connection.stream.destroy();
  }

  close(): void {
    this.#closed = true;
    const client = this.#client;
    this.#client = undefined;
    client?.end().catch(() => {});
  }

  #beginNext(): Promise<Answer> {
    this.#next = undefined;
    return this.#begin();
  }

  #begin(): Promise<Answer> {
    const asked = tick();
    const answer = this.#question(asked, performance.now());
    this.#current = { asked, answer };
    // One listener for all who wait; each of them hears of the failure as well.
    answer.then(
      answered => {
        this.#current = undefined;
        if (!this.#closed) this.#events.onAnswer(answered);
      },
      error => {
        this.#current = undefined;
        if (!this.#closed) this.#events.onFailure(error);
      },
    );
    return answer;
  }

  async #question(asked: number, askedAt: number): Promise<Answer> {
    const client = await this.#connected();
    client.ref();
    try {
      const { rows } = await client.query<Row>({ ...QUESTION, types: AS_TEXT });
      return this.#read(rows[0]!, asked, askedAt);
    } catch (error) {
      if (this.#client === client) this.disconnect();
      throw error;
    } finally {
      client.unref();
    }
  }

  #read(row: Row, asked: number, askedAt: number): Answer {
    const isStandby = row.standby === 'true';
    const lsn = BigInt(row.lsn ?? 0);
    if (!isStandby) {
      const end = endOfLastRecord(lsn, BigInt(row.segment_bytes));
      return {
        isStandby,
        timeline: Number.parseInt(row.timeline ?? '0', 16),
        lsn: end,
        received: end,
        isDrained: false,
        isSynchronous: row.synchronous === 'true',
        asked,
        askedAt,
      };
    }
    // While the receiver is down, what it last had still holds, unless a checkpoint is further.
    const received = row.received_timeline === null ? undefined : Number(row.received_timeline);
    this.#timeline = received ?? Math.max(this.#timeline, Number(row.checkpoint_timeline ?? 0));
    return {
      isStandby,
      timeline: this.#timeline || undefined,
      lsn,
      // One that has never streamed has what it has replayed.
      received: row.received === null ? lsn : BigInt(row.received),
      isDrained: row.drained === 'true' && row.received_timeline === null,
      isSynchronous: false,
      asked,
      askedAt,
    };
  }

  async #connected(): Promise<Refable> {
    if (this.#client) return this.#client;
    if (this.#closed) throw new Error('Connection terminated: the pool has ended');
    const client = new pg.Client(this.#config) as Refable;
    let isConnected = false;
    client.on('error', error => {
      if (this.#client !== client) return;
      this.#client = undefined;
      // A question in flight tells it itself.
      if (isConnected && !this.#current && !this.#closed) this.#events.onFailure(error);
    });
    // pg's own limit on connecting does not hold while a frozen server's kernel takes the connection.
    const limit = setTimeout(() => client.connection.stream.destroy(), this.#timeoutMs);
    try {
      await client.connect();
    } finally {
      clearTimeout(limit);
    }
    if (this.#closed) {
      client.end().catch(() => {});
      throw new Error('Connection terminated: the pool has ended');
    }
    isConnected = true;
    this.#client = client;
    return client;
  }
}
