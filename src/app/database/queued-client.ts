/**
 * What every client of ours that is no connection has of a `pg.PoolClient`: its queue, callbacks and promises, its
 * type parsers, its release. What runs the statements is the subclass's.
 *
 * Holds true here:
 * - Statements run one after the other, in the order in which they came, also when nobody waits for them.
 * - A release waits for what still runs, so that no connection goes back to its pool at work.
 */
import { EventEmitter } from 'node:events';
import pg from 'pg';
import { type Done, type QueryConfig, throwFromHere } from './statement.ts';
import { isSubmittable, type Submittable } from './submittable.ts';

type Job = () => Promise<void>;
type Types = InstanceType<typeof pg.TypeOverrides>;

export abstract class QueuedClient extends EventEmitter {
  readonly #options: pg.PoolConfig;
  readonly #queue: Job[] = [];
  #isBusy = false;
  #types: Types | undefined;
  #released: { error: Error | boolean | undefined } | undefined;
  readonly escapeLiteral = pg.escapeLiteral;
  readonly escapeIdentifier = pg.escapeIdentifier;

  constructor(options: pg.PoolConfig) {
    super();
    this.#options = options;
    // pg's is a function of its own, which callers take along.
    this.release = this.release.bind(this);
  }

  /** Takes a statement when it comes. @returns what runs it when its turn has come */
  protected abstract take(
    config: QueryConfig,
    values: unknown[] | undefined,
  ): () => Promise<unknown>;
  /** The same, of an object that sends itself. What it returns never fails: the object is told. */
  protected abstract takeSubmittable(query: Submittable): () => Promise<void>;
  /** Nothing runs any more. */
  protected abstract giveBack(error: Error | boolean | undefined): void;
  /** The connection that runs, or ran last, its statements. */
  protected abstract get connection(): pg.ClientBase | undefined;

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
    const own = (typeof values === 'function' ? undefined : values) as unknown[] | undefined;
    const run = this.take(this.#withTypes(config as QueryConfig), own);
    if (typeof given === 'function') {
      const done = given as Done;
      this.#enqueue(() =>
        run().then(
          result => callBack(done, undefined, result),
          error => callBack(done, error, undefined),
        ),
      );
      return undefined;
    }
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#enqueue(() => run().then(resolve, reject));
    return promise.catch(throwFromHere);
  }

  /** Gives the client back. @param error true, or an error, closes its connection */
  release(error?: Error | boolean): void {
    if (this.#released) {
      throw new Error('Release called on client which has already been released to the pool.');
    }
    this.#released = { error };
    // What hangs is not waited for when the connection is to be closed anyway.
    if (error || !this.#isBusy) this.giveBack(error);
  }

  get secretKey(): number | null {
    return (this.connection as { secretKey?: number } | undefined)?.secretKey ?? null;
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
    return (this.connection as pg.Client | undefined) ?? new pg.Client(this.#options);
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
    this.#enqueue(this.takeSubmittable(query));
    return query;
  }

  #withTypes(config: QueryConfig): QueryConfig {
    const types = this.#types;
    if (!types) return config;
    if (typeof config === 'string') return { text: config, types };
    return config.types ? config : Object.assign(Object.create(config), { types });
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
    if (this.#released) this.giveBack(this.#released.error);
    else this.emit('drain');
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
