/**
 * What an object that sends itself (pg-cursor, pg-query-stream, pg-copy-streams) is given as its connection where no
 * one connection will do: a server that is none, within this process. It speaks PostgreSQL's protocol to pg, and
 * answers from the shards.
 *
 * Holds true here:
 * - The object sees pg's own `Client` and `Connection`; so whatever it does with those, it can do here.
 * - Messages are taken one after the other, and the next only when one is done: whoever writes faster than the shards
 *   take waits for `drain`, and what nobody reads yet is not asked for.
 * - Errors reach the object as they were thrown, not as text.
 */
import { Duplex } from 'node:stream';
import pg from 'pg';
import { type Submittable, whenIdle } from '../../submittable.ts';
import type { RawRow } from '../merge/gathered.ts';
import {
  AUTHENTICATED,
  BOUND,
  CLOSED,
  COPY_DONE,
  complete,
  copyData,
  copyResponse,
  dataRow,
  errorResponse,
  FieldReader,
  type Message,
  MessageReader,
  NO_DATA,
  PARSED,
  readBind,
  ready,
  rowDescription,
  SUSPENDED,
} from './wire.ts';

/** Rows that come in batches. */
export interface RowSource {
  /** Undefined until something was read, and of what gives no rows. */
  readonly fields: readonly pg.FieldDef[];
  /** As in PostgreSQL's command tag; with the number of rows where it has one. */
  tag(rows: number): string;
  /** Up to so many rows; fewer only when there are no more. */
  read(count: number): Promise<RawRow[]>;
  /** Gives back what it holds. Called once, at the end or before. @param error why it ends before */
  close(error?: unknown): Promise<void>;
}

interface CopyForm {
  readonly columns: number;
  readonly isBinary: boolean;
}

export interface CopyInto extends CopyForm {
  readonly direction: 'in';
  write(chunk: Buffer): Promise<void>;
  /** @returns how many rows were copied */
  end(): Promise<number>;
  /** Nothing of it is to be kept. @returns what the server says to that */
  fail(reason: string): Promise<unknown>;
}

export interface CopyOut extends CopyForm {
  readonly direction: 'out';
  chunks(): AsyncIterable<Buffer>;
  /** How many rows were copied, when all chunks have been taken. */
  readonly rows: number;
}

export interface Service {
  /** Of a statement with parameters. */
  rows(text: string, values: (string | Buffer | null)[]): Promise<RowSource>;
  /** Of a text that is sent without. */
  copy(text: string): Promise<CopyInto | CopyOut | undefined>;
  /** Of the session, after the statement. */
  status(): string;
}

/** One that says no to all. */
export function failing(error: unknown, status: string): Service {
  const fail = () => Promise.reject(error);
  return { rows: fail, copy: fail, status: () => status };
}

/** All rows of a portal in one go; as many as memory has place for are there at a time. */
const ALL_BATCH = 1_000;

/**
 * Lets an object send itself to a service.
 * @returns when it is done, however it went: the object is told of errors
 */
export async function serve(
  query: Submittable,
  service: Service,
  signal: AbortSignal,
): Promise<void> {
  const stream = new ServerStream(service);
  const client = new pg.Client({
    stream: () => stream,
    ssl: false,
    host: 'banyan',
    user: 'banyan',
    password: 'none',
    database: 'banyan',
  } as unknown as pg.ClientConfig);
  client.on('error', () => {});
  const handleError = query.handleError;
  query.handleError = (error, connection) =>
    handleError.call(query, (stream.thrown(error) ?? error) as Error, connection);
  await client.connect();
  const onAbort = () => stream.destroy(signal.reason as Error);
  if (signal.aborted) onAbort();
  else signal.addEventListener('abort', onAbort, { once: true });
  const idle = whenIdle(client);
  client.query(query as unknown as pg.Submittable);
  await idle;
  signal.removeEventListener('abort', onAbort);
  query.handleError = handleError;
  await stream.over();
}

class ServerStream extends Duplex {
  readonly #service: Service;
  readonly #reader = new MessageReader();
  readonly #errors: unknown[] = [];
  #text = '';
  #portal: RowSource | undefined;
  #copy: CopyInto | undefined;
  /** After an error everything is left out until the next Sync. */
  #isSkipping = false;
  #onRead: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  constructor(service: Service) {
    super();
    this.#service = service;
  }

  // ---- what pg wants of a socket

  connect(): this {
    process.nextTick(() => this.emit('connect'));
    return this;
  }

  setNoDelay(): this {
    return this;
  }

  setKeepAlive(): this {
    return this;
  }

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }

  /** The error that a message of this server stands for. */
  thrown(error: unknown): unknown {
    const [, number] = /^banyan (\d+)$/.exec((error as pg.DatabaseError).routine ?? '') ?? [];
    return number === undefined ? undefined : this.#errors[Number(number)];
  }

  /** Nothing is held any more. */
  async over(): Promise<void> {
    this.destroy();
    await this.#closing;
  }

  override _read(): void {
    this.#onRead?.();
    this.#onRead = undefined;
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error) => void): void {
    void (async () => {
      for (const message of this.#reader.take(chunk)) {
        try {
          await this.#take(message);
        } catch (error) {
          await this.#fail(error, message.type);
        }
      }
    })().then(() => done(), done);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#onRead?.();
    this.#closing = this.#letGo(error ?? undefined);
    this.#closing.then(
      () => done(error),
      () => done(error),
    );
  }

  async #take({ type, body }: Message): Promise<void> {
    if (this.#isSkipping && type !== 'S' && type !== 'X') return;
    switch (type) {
      case '':
        this.push(Buffer.concat([AUTHENTICATED, ready('I')]));
        return;
      case 'Q':
        return this.#query(new FieldReader(body).text());
      case 'P': {
        const reader = new FieldReader(body);
        reader.text();
        this.#text = reader.text();
        this.push(PARSED);
        return;
      }
      case 'B':
        await this.#letGo();
        this.#portal = await this.#service.rows(this.#text, readBind(body));
        this.push(BOUND);
        return;
      case 'D': {
        const fields = this.#portal?.fields ?? [];
        this.push(fields.length > 0 ? rowDescription(fields) : NO_DATA);
        return;
      }
      case 'E': {
        const reader = new FieldReader(body);
        reader.text();
        return this.#execute(reader.int32());
      }
      case 'C':
        await this.#letGo();
        this.push(CLOSED);
        return;
      case 'S':
        this.#isSkipping = false;
        await this.#letGo();
        this.push(ready(this.#service.status()));
        return;
      case 'd':
        await this.#copy?.write(body);
        return;
      case 'c':
        return this.#endCopy();
      case 'f':
        return this.#failCopy(new FieldReader(body).text());
      case 'X':
        this.push(null);
    }
  }

  async #fail(error: unknown, type: string): Promise<void> {
    const isSimple = type === 'Q' || type === 'd' || type === 'c' || type === 'f';
    this.#copy = undefined;
    await this.#letGo(error).catch(() => {});
    const number = this.#errors.push(error) - 1;
    this.push(errorResponse(error, `banyan ${number}`));
    if (isSimple) this.push(ready(this.#service.status()));
    else this.#isSkipping = type !== 'S';
    if (type === 'S') this.push(ready(this.#service.status()));
  }

  // ---- rows

  async #execute(most: number): Promise<void> {
    const portal = this.#portal;
    if (!portal) throw new Error('there is no portal');
    const { fields } = portal;
    let sent = 0;
    while (most === 0 || sent < most) {
      const wanted = most === 0 ? ALL_BATCH : Math.min(most - sent, ALL_BATCH);
      const rows = await portal.read(wanted);
      sent += rows.length;
      if (rows.length > 0) {
        await this.#send(Buffer.concat(rows.map(row => dataRow(row, fields.length))));
      }
      if (rows.length < wanted) {
        await this.#letGo();
        this.push(complete(portal.tag(sent)));
        return;
      }
    }
    this.push(SUSPENDED);
  }

  /** Closes what is open. */
  async #letGo(error?: unknown): Promise<void> {
    const portal = this.#portal;
    const copy = this.#copy;
    this.#portal = undefined;
    this.#copy = undefined;
    await portal?.close(error);
    if (copy) await copy.fail('the connection was closed');
  }

  // ---- copies

  async #query(text: string): Promise<void> {
    const copy = await this.#service.copy(text);
    if (!copy) {
      this.#portal = await this.#service.rows(text, []);
      if (this.#portal.fields.length > 0) this.push(rowDescription(this.#portal.fields));
      await this.#execute(0);
      this.push(ready(this.#service.status()));
      return;
    }
    if (copy.direction === 'in') {
      this.#copy = copy;
      this.push(copyResponse('G', copy.columns, copy.isBinary));
      return;
    }
    await this.#send(copyResponse('H', copy.columns, copy.isBinary));
    for await (const chunk of copy.chunks()) await this.#send(copyData(chunk));
    this.push(
      Buffer.concat([COPY_DONE, complete(`COPY ${copy.rows}`), ready(this.#service.status())]),
    );
  }

  async #endCopy(): Promise<void> {
    const copy = this.#copy;
    this.#copy = undefined;
    if (!copy) return;
    const rows = await copy.end();
    this.push(Buffer.concat([complete(`COPY ${rows}`), ready(this.#service.status())]));
  }

  async #failCopy(reason: string): Promise<void> {
    const copy = this.#copy;
    this.#copy = undefined;
    if (copy) throw await copy.fail(reason);
  }

  /** Waits until there is room for more. */
  async #send(bytes: Buffer): Promise<void> {
    if (this.destroyed) throw new Error('the connection was closed');
    if (this.push(bytes)) return;
    await new Promise<void>(resolve => {
      this.#onRead = resolve;
    });
  }
}
