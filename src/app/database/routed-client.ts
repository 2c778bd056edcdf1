/**
 * What `pool.connect()` gives where there are replicas: to the application a `pg.PoolClient` in everything,
 * underneath a connection only for as long as one is needed (`client-connection.ts`).
 *
 * Holds true here:
 * - Statements run one after the other, in the order in which they came, also when nobody waits for them.
 * - A release waits for what still runs, so that no connection goes back to its pool at work.
 */
import { EventEmitter } from 'node:events';
import pg from 'pg';
import { processIdAt } from './cancel.ts';
import { ClientConnection, type Held, type Request } from './client-connection.ts';
import { stalenessOf } from './consistency/staleness.ts';
import type { Router } from './router.ts';
import type { Done, QueryConfig } from './statement.ts';
import { isSubmittable, type Submittable, textOf } from './submittable.ts';

/** Events of a connection that the application may listen for on its client. */
const FORWARDED = ['notice', 'notification', 'error', 'end'] as const;

type Job = () => Promise<void>;
type Types = InstanceType<typeof pg.TypeOverrides>;

export class RoutedClient extends EventEmitter {
  readonly #router: Router;
  readonly #options: pg.PoolConfig;
  readonly #connection: ClientConnection;
  readonly #queue: Job[] = [];
  #isBusy = false;
  #current: Held | undefined;
  #listeners: [event: string, listener: (...args: unknown[]) => void][] = [];
  #types: Types | undefined;
  #released: { error: Error | boolean | undefined } | undefined;
  readonly escapeLiteral = pg.escapeLiteral;
  readonly escapeIdentifier = pg.escapeIdentifier;

  constructor(router: Router, options: pg.PoolConfig) {
    super();
    this.#router = router;
    this.#options = options;
    this.#connection = new ClientConnection(router, {
      onTaken: held => this.#onTaken(held),
      onGiven: held => this.#onGiven(held),
    });
    // pg's is a function of its own, which callers take along.
    this.release = this.release.bind(this);
  }

  /** As pg's: a text, a configuration or an object that sends itself; a promise unless there is a callback. */
  query(config: unknown, values?: unknown, callback?: unknown): unknown {
    if (config === null || config === undefined) {
      throw new TypeError('Client was passed a null or undefined query');
    }
    if (isSubmittable(config)) return this.#submit(config, values, callback);
    const given =
      typeof values === 'function'
        ? values
        : (callback ?? (config as { callback?: Done }).callback);
    if (given !== undefined && given !== null && typeof given !== 'function') {
      throw new TypeError('callback is not a function');
    }
    const staleness = stalenessOf(config, this.#router.staleness);
    const own = (typeof values === 'function' ? undefined : values) as unknown[] | undefined;
    const request = this.#router.statement(
      this.#withTypes(config as QueryConfig),
      own,
      () => {},
      staleness,
    );
    if (typeof given === 'function') {
      const done = given as Done;
      this.#enqueue(() =>
        this.#run(request).then(
          result => callBack(done, undefined, result),
          error => callBack(done, error, undefined),
        ),
      );
      return undefined;
    }
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#enqueue(() => this.#run(request).then(resolve, reject));
    return promise.catch(error => {
      // As pg does: leads to the application's line, not to the socket's.
      if (error instanceof Error) Error.captureStackTrace(error);
      throw error;
    });
  }

  /** Gives the client back. @param error true, or an error, closes its connection */
  release(error?: Error | boolean): void {
    if (this.#released) {
      throw new Error('Release called on client which has already been released to the pool.');
    }
    this.#released = { error };
    // What hangs is not waited for when the connection is to be closed anyway.
    if (error || !this.#isBusy) this.#connection.release(error);
  }

  /** Of the server process that runs, or ran last, its statements; `pool.query` finds its server by it. */
  get processID(): number | null {
    const current = this.#current;
    const pid = (current?.client as { processID?: number } | undefined)?.processID;
    return pid === undefined ? null : processIdAt(current!.member, pid);
  }

  get secretKey(): number | null {
    return (this.#current?.client as { secretKey?: number } | undefined)?.secretKey ?? null;
  }

  get database(): string | undefined {
    return this.#parameters.database;
  }

  get user(): string | undefined {
    return this.#parameters.user;
  }

  get host(): string {
    return this.#parameters.host;
  }

  get port(): number {
    return this.#parameters.port;
  }

  /** Those of the connection; before there is one, those that it would have. */
  get #parameters(): pg.Client {
    return (this.#current?.client as pg.Client | undefined) ?? new pg.Client(this.#options);
  }

  /** `I` outside of a transaction, `T` within one, `E` within one that has failed. */
  getTransactionStatus(): 'I' | 'T' | 'E' | null {
    const held = this.#connection.held as { client: object } | undefined;
    if (!held) return 'I';
    return (
      held.client as { getTransactionStatus(): 'I' | 'T' | 'E' | null }
    ).getTransactionStatus();
  }

  setTypeParser(...args: Parameters<Types['setTypeParser']>): void {
    this.#types ??= new pg.TypeOverrides(this.#options.types);
    this.#types.setTypeParser(...args);
  }

  getTypeParser(...args: Parameters<Types['getTypeParser']>): unknown {
    this.#types ??= new pg.TypeOverrides(this.#options.types);
    return this.#types.getTypeParser(...args);
  }

  connect(callback?: (error: Error) => void): Promise<never> | undefined {
    const error = new Error('Client has already been connected. You cannot reuse a client.');
    if (!callback) return Promise.reject(error);
    process.nextTick(callback, error);
    return undefined;
  }

  end(callback?: () => void): Promise<void> | undefined {
    if (!this.#released) this.release(true);
    if (!callback) return Promise.resolve();
    process.nextTick(callback);
    return undefined;
  }

  ref(): void {}
  unref(): void {}

  #submit(query: Submittable, values: unknown, callback: unknown): Submittable {
    if (!query.callback) {
      const given = typeof values === 'function' ? values : callback;
      if (given) query.callback = given;
    }
    const request = this.#router.statement(textOf(query) ?? '', undefined, () => {});
    this.#enqueue(() => this.#connection.submit(query, request));
    return query;
  }

  #withTypes(config: QueryConfig): QueryConfig {
    const types = this.#types;
    if (!types) return config;
    if (typeof config === 'string') return { text: config, types };
    return config.types ? config : Object.assign(Object.create(config), { types });
  }

  #run(request: Request): Promise<unknown> {
    request.came = performance.now();
    return this.#connection.run(request);
  }

  #enqueue(job: Job): void {
    if (this.#released && !this.#isBusy) {
      throw new Error('The client has been released to the pool, and cannot be queried any more');
    }
    this.#queue.push(job);
    if (!this.#isBusy) void this.#work();
  }

  async #work(): Promise<void> {
    this.#isBusy = true;
    for (let job = this.#queue.shift(); job; job = this.#queue.shift()) await job();
    this.#isBusy = false;
    if (this.#released) this.#connection.release(this.#released.error);
    else this.emit('drain');
  }

  #onTaken(held: Held): void {
    this.#current = held;
    for (const event of FORWARDED) {
      const listener = (...args: unknown[]) => {
        // Nobody has to listen: the next query tells of it as well.
        if (this.listenerCount(event) > 0) this.emit(event, ...args);
      };
      this.#listeners.push([event, listener]);
      held.client.on(event as 'end', listener);
    }
  }

  #onGiven({ client }: Held): void {
    for (const [event, listener] of this.#listeners) client.removeListener(event, listener);
    this.#listeners = [];
  }
}

/** An error of the application's own in its callback is its own, as with pg. */
function callBack(done: Done, error: Error | undefined, result: unknown): void {
  try {
    done(error, result);
  } catch (thrown) {
    process.nextTick(() => {
      throw thrown;
    });
  }
}
