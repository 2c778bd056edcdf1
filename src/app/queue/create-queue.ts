/**
 * The queue of an application: what `createQueue` gives. Nothing of an engine is loaded, nothing is asked of the database,
 * before the first message or handler.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type pg from 'pg';
import type { Duration } from '../cache/options.ts';
import { transactionOf } from '../database/transaction.ts';
import { readEnvironment } from '../environment.ts';
import { nextId } from '../ids/next-id.ts';
import { DRAIN_TIMEOUT_MS, onDrain } from '../lifecycle/drain.ts';
import { tellReadiness } from '../lifecycle/ready-file.ts';
import { awaitResult } from './await-result.ts';
import type { Job, Topic } from './definitions.ts';
import type {
  DeadLetter,
  DeadLetterFilter,
  OutgoingMessage,
  QueueEngine,
  Schedule,
  SubscriptionStats,
} from './engine.ts';
import { HandlerRegistered, InvalidQueueOption, QueueClosed, ResultsNotKept } from './errors.ts';
import {
  checkName,
  checkTopic,
  durationMs,
  messageOptions,
  policyOf,
  WORK,
  wholeNumber,
  workOptions,
} from './options.ts';
import { encodePayload } from './payload.ts';
import { Subscriber } from './subscriber.ts';
import type {
  BatchContext,
  BatchOptions,
  JobContext,
  MessageToPublish,
  PublishOptions,
  Queue,
  ResultOptions,
  ScheduleOptions,
  WorkOptions,
} from './types.ts';
import { Worker } from './worker.ts';

export interface QueueOptions {
  /** Where messages are kept: the application's pool. */
  pool: pg.Pool;
  /**
   * How long a worker may be silent (it died, or its event loop stands still) before others take what it has in hand. From
   * 1 second. Default: 30 seconds.
   */
  lease?: Duration;
  /** The largest payload, as JSON. Up to 100 MB; a queue is no place for files. Default: 1 MB. */
  maxMessageBytes?: number;
}

/** @internal For tests, and for commands. */
export interface QueueWiring {
  /** A worker that lost its lease can do harm: the checker has to find it. */
  readonly unguarded?: boolean;
  /** Of who looks at an application's queue from outside: where its map is. Default: the process's own. */
  readonly env?: NodeJS.ProcessEnv;
}

const LEASE_MS = 30_000;
const MEGABYTE = 1_048_576;
const RESULT_TIMEOUT_MS = 30_000;
const DEAD_LETTERS = 100;

/**
 * A queue beside a pool.
 * @throws InvalidQueueOption
 * @example
 * const queue = createQueue({ pool });
 * await queue.publish(welcomeMail, { userId });
 * queue.work(welcomeMail, async job => sendMail(job.payload.userId));
 */
export function createQueue(options: QueueOptions, wiring: QueueWiring = {}): Queue {
  return new PoolQueue(options, wiring);
}

type Handler = (face: never) => unknown;

class PoolQueue implements Queue {
  readonly #pool: pg.Pool;
  readonly #leaseMs: number;
  readonly #maxBytes: number;
  readonly #wiring: QueueWiring;
  readonly #outside = AsyncLocalStorage.snapshot();
  readonly #subscribers = new Map<string, Subscriber>();
  readonly #schedules = new Map<string, Promise<Schedule>>();
  #loading: Promise<QueueEngine> | undefined;
  #worker: Worker | undefined;
  #starting: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  #forgetDrain = () => {};

  constructor({ pool, lease, maxMessageBytes = MEGABYTE }: QueueOptions, wiring: QueueWiring) {
    const where = 'createQueue()';
    this.#pool = pool;
    this.#leaseMs = lease === undefined ? LEASE_MS : durationMs(where, 'lease', lease, 1_000);
    this.#maxBytes = wholeNumber(where, 'maxMessageBytes', maxMessageBytes, 1, 100 * MEGABYTE);
    this.#wiring = wiring;
  }

  #engine(): Promise<QueueEngine> {
    this.#loading ??= this.#open();
    return this.#loading;
  }

  /** PostgreSQL's and, where a runtime map may name one, RabbitMQ's beside it. */
  async #open(): Promise<QueueEngine> {
    const { PostgresEngine } = await import('./postgres/engine.ts');
    const { unguarded = false, env } = this.#wiring;
    const pool = this.#pool;
    const postgres = new PostgresEngine({ pool, leaseMs: this.#leaseMs, unguarded });
    const { Broker } = await import('./rabbitmq/broker.ts');
    const broker = Broker.find(env);
    if (!broker) return postgres;
    const [{ TwoEngines }, { placesOf }] = await Promise.all([
      import('./rabbitmq/engine.ts'),
      import('./postgres/places.ts'),
    ]);
    return new TwoEngines({ pool, places: placesOf(pool), postgres, broker });
  }

  async publish<Input>(
    topic: Topic<Input, unknown>,
    payload: Input,
    options: PublishOptions = {},
  ): Promise<string> {
    const tx = this.#tx(options.tx);
    const where = 'queue.publish()';
    const message = await this.#message(where, topic as Topic<never, unknown>, payload, options);
    const [id] = await this.#send([message], tx);
    return id!;
  }

  async publishAll<Input>(
    topic: Topic<Input, unknown>,
    messages: readonly MessageToPublish<Input>[],
    options: Pick<PublishOptions, 'tx'> = {},
  ): Promise<string[]> {
    const tx = this.#tx(options.tx);
    const where = 'queue.publishAll()';
    const outgoing: OutgoingMessage[] = [];
    for (const [index, { payload, ...own }] of messages.entries()) {
      outgoing.push(
        await this.#message(where, topic as Topic<never, unknown>, payload, own, index),
      );
    }
    return this.#send(outgoing, tx);
  }

  /** Before anything is awaited: the transaction is that of the call. */
  #tx(given: pg.ClientBase | null | undefined): pg.ClientBase | undefined {
    return given === undefined ? transactionOf(this.#pool) : (given ?? undefined);
  }

  async #message(
    where: string,
    topic: Topic<never, unknown>,
    payload: unknown,
    options: PublishOptions,
    index?: number,
  ): Promise<OutgoingMessage> {
    checkTopic(where, topic);
    const checked = messageOptions(where, options);
    const text = await encodePayload(topic, payload, this.#maxBytes, index);
    return { id: nextId(), topic: topic.name, payload: text, ...checked };
  }

  async #send(messages: OutgoingMessage[], tx: pg.ClientBase | undefined): Promise<string[]> {
    if (this.#closing && !tx && this.#worker === undefined) throw new QueueClosed();
    return (await this.#engine()).publish(messages, tx);
  }

  work<Output>(
    job: Job<never, Output> | Job<unknown, Output>,
    handler: (job: JobContext<Output>) => unknown,
    options: WorkOptions = {},
  ): void {
    this.#handle('queue.work()', job, WORK, handler as Handler, options, false);
  }

  workInBatches<Output>(
    job: Job<never, Output> | Job<unknown, Output>,
    handler: (batch: BatchContext<Output>) => unknown,
    options: BatchOptions = {},
  ): void {
    this.#handle('queue.workInBatches()', job, WORK, handler as Handler, options, true);
  }

  subscribe<Output>(
    topic: Topic<never, Output> | Topic<unknown, Output>,
    name: string,
    handler: (job: JobContext<Output>) => unknown,
    options: WorkOptions = {},
  ): void {
    this.#handle('queue.subscribe()', topic, name, handler as Handler, options, false);
  }

  subscribeInBatches<Output>(
    topic: Topic<never, Output> | Topic<unknown, Output>,
    name: string,
    handler: (batch: BatchContext<Output>) => unknown,
    options: BatchOptions = {},
  ): void {
    this.#handle('queue.subscribeInBatches()', topic, name, handler as Handler, options, true);
  }

  #handle(
    where: string,
    given: Topic<never, unknown> | Topic<unknown, unknown>,
    name: string,
    handler: Handler,
    options: BatchOptions,
    isBatch: boolean,
  ): void {
    if (this.#closing) throw new QueueClosed();
    const topic = given as Topic<never, unknown>;
    checkTopic(where, topic);
    checkName(where, name);
    if (typeof handler !== 'function') {
      throw new InvalidQueueOption(where, 'handler', handler, 'Give a function');
    }
    const isJob = topic.kind === 'job';
    if (isJob !== (name === WORK)) {
      throw new InvalidQueueOption(
        where,
        'topic',
        topic.name,
        isJob
          ? 'It is a job, which has one party that does it: use queue.work, or define it with defineTopic'
          : `It is a topic: use queue.subscribe, with a name other than \`${WORK}\``,
      );
    }
    const key = `${topic.name}/${name}`;
    if (this.#subscribers.has(key)) throw new HandlerRegistered(topic.name, name);
    const policy = policyOf(topic, name);
    const checked = workOptions(where, topic, options, isBatch);
    const subscriber = new Subscriber(
      {
        ...checked,
        topic,
        policy,
        isBatch,
        handler,
        onRoom: () => this.#worker?.wake(),
        outside: this.#outside,
      },
      () => this.#worker!.consumer,
    );
    this.#subscribers.set(key, subscriber);
    this.#start();
  }

  schedule<Input>(
    name: string,
    topic: Topic<Input, unknown>,
    options: ScheduleOptions<Input>,
  ): void {
    const where = 'queue.schedule()';
    if (this.#closing) throw new QueueClosed();
    checkName(where, name);
    checkTopic(where, topic as Topic<never, unknown>);
    const { cron, timeZone = 'UTC', payload, missed = 'latest' } = options;
    if (missed !== 'latest' && missed !== 'skip') {
      throw new InvalidQueueOption(where, 'missed', missed, "Give 'latest' or 'skip'");
    }
    const making = this.#makeSchedule(where, topic as Topic<never, unknown>, {
      name,
      cron,
      timeZone,
      payload,
      missed,
    });
    making.catch(() => {});
    this.#schedules.set(name, making);
    this.#start();
  }

  async #makeSchedule(
    where: string,
    topic: Topic<never, unknown>,
    { payload, ...schedule }: Omit<Schedule, 'payload' | 'topic'> & { payload: unknown },
  ): Promise<Schedule> {
    const { cron, timeZone } = schedule;
    const { nextTime } = await import('./postgres/schedules.ts');
    try {
      nextTime(cron, timeZone, new Date());
    } catch (error) {
      throw new InvalidQueueOption(
        where,
        'cron',
        cron,
        `Give five or six fields, such as '0 3 * * *', and a time zone such as 'Europe/Zurich': ${(error as Error).message}`,
      );
    }
    return {
      ...schedule,
      topic: topic.name,
      payload: await encodePayload(topic, payload ?? {}, this.#maxBytes),
    };
  }

  /** In the next turn of the event loop: all that a module says at its beginning is declared in one go. */
  #start(): void {
    this.#forgetDrain();
    this.#forgetDrain = onDrain(timeoutMs => this.close(timeoutMs));
    tellReadiness('starting');
    this.#starting ??= this.#outside(async () => {
      await new Promise(setImmediate);
      this.#starting = undefined;
      if (this.#closing) return;
      const schedules = await Promise.all(this.#schedules.values());
      const engine = await this.#engine();
      const before = this.#worker;
      this.#worker = new Worker(engine, [...this.#subscribers.values()], schedules, this.#outside);
      // A handler that came later: one worker for all, which begins when the one before has given everything back.
      this.#worker.start(before?.close(DRAIN_TIMEOUT_MS));
      this.#worker.ready().then(
        () => tellReadiness('ready'),
        () => {},
      );
    });
    this.#starting.catch(() => {});
  }

  async ready(): Promise<void> {
    await this.#starting;
    await this.#worker?.ready();
  }

  async cancel(id: string): Promise<boolean> {
    return (await this.#engine()).cancel(checkId('queue.cancel()', id));
  }

  async result(
    job: Job<unknown, unknown>,
    id: string,
    options: ResultOptions = {},
  ): Promise<unknown> {
    const where = 'queue.result()';
    checkTopic(where, job as Topic<never, unknown>);
    checkId(where, id);
    if (job.keepResults === undefined) throw new ResultsNotKept(job.name);
    const { timeout, ...rest } = options;
    const timeoutMs =
      timeout === undefined ? RESULT_TIMEOUT_MS : durationMs(where, 'timeout', timeout);
    return awaitResult(await this.#engine(), id, { ...rest, timeoutMs });
  }

  async stats(): Promise<SubscriptionStats[]> {
    return (await this.#engine()).stats();
  }

  async deadLetters(filter: DeadLetterFilter = {}, limit = DEAD_LETTERS): Promise<DeadLetter[]> {
    wholeNumber('queue.deadLetters()', 'limit', limit, 1, 100_000);
    return (await this.#engine()).deadLetters(checkFilter('queue.deadLetters()', filter), limit);
  }

  async replay(filter: DeadLetterFilter = {}): Promise<number> {
    return (await this.#engine()).replay(checkFilter('queue.replay()', filter));
  }

  async discard(filter: DeadLetterFilter = {}): Promise<number> {
    return (await this.#engine()).discard(checkFilter('queue.discard()', filter));
  }

  close(drainMs = readEnvironment().drainTimeoutMs ?? DRAIN_TIMEOUT_MS): Promise<void> {
    this.#closing ??= this.#close(drainMs);
    return this.#closing;
  }

  async #close(drainMs: number): Promise<void> {
    await this.#starting?.catch(() => {});
    await this.#worker?.close(drainMs);
    this.#worker = undefined;
    if (this.#loading) await (await this.#loading).close();
    this.#forgetDrain();
  }
}

function checkId(where: string, id: unknown): string {
  if (typeof id === 'string' && /^\d{1,19}$/.test(id)) return id;
  throw new InvalidQueueOption(where, 'id', id, 'Give the id that queue.publish returned');
}

function checkFilter(where: string, filter: DeadLetterFilter): DeadLetterFilter {
  for (const id of filter.ids ?? []) checkId(where, id);
  return filter;
}
