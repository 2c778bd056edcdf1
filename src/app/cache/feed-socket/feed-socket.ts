/**
 * The feed over the invalidator's socket: with Redis and without, the order is kept, and each process's memory lives while
 * Redis is away.
 *
 * Holds true here:
 * - Of several addresses one serves, and says so by its first word; the others stand by.
 * - **A connection that is lost is a gap at once**, of every cluster that it told of. So is one that is silent: the invalidator
 *   says something each second.
 */
import { connect as connectSocket, type Socket } from 'node:net';
import { BanyanError } from '../../../errors.ts';
import type { FeedAddress } from '../../../map/runtime-map.ts';
import type { FeedListener, InvalidationFeed } from '../feed.ts';
import {
  type CacheReport,
  Lines,
  type ToInvalidator,
  type ToProcess,
  unpackEvent,
} from './wire.ts';

const PAUSE_MS = 20;
const PAUSE_LIMIT_MS = 500;
/** The invalidator says something each second. */
const SILENCE_MS = 5_000;
const INVALIDATE_MS = 5_000;
const REPORT_MS = 5_000;

export class InvalidatorAway extends BanyanError {
  constructor(reason: string) {
    super('INVALIDATOR_AWAY', {
      what: `Tags could not be invalidated: ${reason}`,
      where: 'cache.invalidateTag, cache.delete',
      remedy:
        'Try again: nobody knows whether it was done. `banyan status` shows how the invalidator fares',
    });
  }
}

export interface FeedSocketOptions {
  /** Of the invalidators; asked at each attempt to connect. */
  readonly addresses: () => readonly FeedAddress[];
  /** Who one is, for people: `web-1`. */
  readonly name: string;
  /** What is told to the operators every few seconds; undefined: nothing. */
  readonly report?: () => CacheReport;
}

interface Waiting {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class FeedSocket implements InvalidationFeed {
  readonly #options: FeedSocketOptions;
  #listener: FeedListener | undefined;
  #socket: Socket | undefined;
  /** It has told something: it is the one that serves. */
  #serves = false;
  readonly #clusters = new Set<string>();
  readonly #waiting = new Map<number, Waiting>();
  #lastId = 0;
  #next = 0;
  #pause = PAUSE_MS;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: FeedSocketOptions) {
    this.#options = options;
  }

  connect(listener: FeedListener): () => void {
    if (this.#listener) throw new Error('a feed has one listener');
    this.#listener = listener;
    this.#try();
    const reporting = setInterval(() => this.#report(), REPORT_MS);
    reporting.unref();
    return () => {
      this.#closed = true;
      clearInterval(reporting);
      clearTimeout(this.#timer);
      this.#socket?.destroy();
    };
  }

  async invalidate(tags: readonly string[]): Promise<void> {
    const id = ++this.#lastId;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    if (!this.#serves) throw new InvalidatorAway('the invalidator cannot be reached');
    this.#waiting.set(id, { resolve, reject });
    const timer = setTimeout(
      () => reject(new InvalidatorAway(`no answer within ${INVALIDATE_MS / 1_000} s`)),
      INVALIDATE_MS,
    );
    this.#send({ invalidate: tags, id });
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(id);
    }
  }

  #try(): void {
    const addresses = this.#options.addresses();
    const address = addresses[this.#next++ % Math.max(1, addresses.length)];
    if (!address) {
      this.#later();
      return;
    }
    const socket = connectSocket({ ...address });
    this.#socket = socket;
    // What waits for it is work enough to keep a process; it alone is not.
    socket.unref();
    socket.setEncoding('utf8');
    socket.setNoDelay(true);
    socket.setTimeout(SILENCE_MS, () => socket.destroy(new Error('it was silent')));
    const lines = new Lines();
    let reason = 'the connection to the invalidator ended';
    socket.once('connect', () => this.#send({ hello: this.#options.name }));
    socket.on('data', text => {
      try {
        for (const line of lines.take(String(text))) this.#take(JSON.parse(line) as ToProcess);
      } catch (error) {
        socket.destroy(error as Error);
      }
    });
    socket.on('error', error => {
      reason = `the connection to the invalidator broke: ${error.message}`;
    });
    socket.once('close', () => this.#lost(reason));
  }

  #take(message: ToProcess): void {
    if ('standby' in message) {
      this.#socket?.destroy();
      return;
    }
    if ('done' in message) {
      this.#waiting.get(message.done)?.resolve();
      return;
    }
    const event = unpackEvent(message);
    if (!event) return;
    this.#serves = true;
    this.#pause = PAUSE_MS;
    this.#clusters.add(event.kind === 'batch' ? event.batch.cluster : event.cluster);
    this.#listener?.(event);
  }

  #lost(reason: string): void {
    this.#socket = undefined;
    for (const { reject } of this.#waiting.values()) reject(new InvalidatorAway(reason));
    if (this.#serves) {
      // The next one is asked from the first on.
      this.#serves = false;
      if (!this.#closed) {
        for (const cluster of this.#clusters) {
          this.#listener?.({ kind: 'gap', cluster, upto: undefined, reason });
        }
      }
      this.#clusters.clear();
    }
    this.#later();
  }

  #later(): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => this.#try(), this.#pause);
    this.#timer.unref();
    this.#pause = Math.min(this.#pause * 1.5, PAUSE_LIMIT_MS);
  }

  #report(): void {
    if (this.#serves && this.#options.report) this.#send({ report: this.#options.report() });
  }

  #send(message: ToInvalidator): void {
    this.#socket?.write(`${JSON.stringify(message)}\n`);
  }
}
