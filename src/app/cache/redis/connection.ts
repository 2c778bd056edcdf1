/**
 * The connection to Redis: one server or a cluster, by the same words.
 *
 * Holds true here:
 * - Nothing is asked for longer than `timeoutMs`: a server that is frozen answers nobody, and says nothing of it.
 * - While it is away nothing is queued: who asks hears so at once.
 * - It reconnects by itself, and an error of the connection ends nobody's process.
 * - The library is loaded with the first connection: an application without Redis starts without it.
 */
import type { RedisClientOptions, RedisClusterOptions } from '@redis/client';
import { BanyanError } from '../../../errors.ts';
import { Patience } from './patience.ts';
import type { Script } from './scripts.ts';

export interface RedisNode {
  readonly host: string;
  readonly port: number;
}

export interface RedisTarget {
  readonly mode: 'single' | 'cluster';
  readonly nodes: readonly RedisNode[];
  readonly username?: string;
  readonly password?: string;
  readonly tls?: boolean;
}

/** Redis did not answer in time, or is not there. What was asked may have been done. */
export class CacheAway extends BanyanError {
  constructor(what: string, cause?: unknown) {
    super('CACHE_AWAY', { what, where: 'Redis', cause });
  }
}

/** In the same data centre an answer takes less than a millisecond; who waits longer is better served by the database. */
export const TIMEOUT_MS = 250;
const CONNECT_TIMEOUT_MS = 2_000;
const MOST_PENDING = 10_000;
/** A connection on which nothing is heard for so long, with something asked, is broken. */
const SOCKET_TIMEOUT_MS = 10_000;
const PING_INTERVAL_MS = 3_000;
const LONGEST_PAUSE_MS = 1_000;

type Argument = string | Buffer;
export type Reply = string | Buffer | number | null | Reply[];

interface Sender {
  send(key: string, args: Argument[], asBytes: boolean): Promise<Reply>;
  readonly isReady: boolean;
  destroy(): void;
}

type Library = typeof import('@redis/client');

/** The library's own limit of time, a signal for each command, costs more than the command: ours is shorter. */
const UNTIMED = { timeout: undefined };

/** Until there is another one. */
const NOBODY: Sender = {
  send: () => Promise.reject(new Error('there is no connection yet')),
  isReady: false,
  destroy() {},
};

export class RedisConnection {
  readonly #timeoutMs: number;
  readonly #patience: Patience;
  #sender = NOBODY;
  #isClosed = false;
  #pending = 0;

  private constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
    this.#patience = new Patience(timeoutMs);
  }

  /** Begins to connect, and returns at once. @param onError told of each failure */
  static open(
    target: RedisTarget,
    onError: (error: unknown) => void,
    timeoutMs = TIMEOUT_MS,
  ): RedisConnection {
    const connection = new RedisConnection(timeoutMs);
    import('@redis/client')
      .then(library => connection.#connect(library, target, onError))
      .catch(onError);
    return connection;
  }

  #connect(library: Library, target: RedisTarget, onError: (error: unknown) => void): void {
    if (this.#isClosed) return;
    const open = target.mode === 'cluster' ? openCluster : openSingle;
    this.#sender = open(library, target, onError);
  }

  get isReady(): boolean {
    return this.#sender.isReady;
  }

  /** @throws CacheAway, and what Redis answers */
  command(key: string, args: Argument[], asBytes = false): Promise<Reply> {
    if (!this.#sender.isReady)
      return Promise.reject(new CacheAway('There is no connection to the cache'));
    if (this.#pending >= MOST_PENDING)
      return Promise.reject(new CacheAway('Too much is waiting for the cache'));
    this.#pending++;
    return new Promise((resolve, reject) => {
      const question = {
        isOver: false,
        giveUp: () => {
          this.#pending--;
          reject(new CacheAway(`The cache did not answer within ${this.#timeoutMs} ms`));
        },
      };
      this.#patience.add(question);
      const over = () => {
        if (question.isOver) return false;
        question.isOver = true;
        this.#pending--;
        return true;
      };
      this.#sender.send(key, args, asBytes).then(
        reply => {
          if (over()) resolve(reply);
        },
        error => {
          if (over())
            reject(
              isOfServer(error)
                ? error
                : new CacheAway('The connection to the cache failed', error),
            );
        },
      );
    });
  }

  /** Runs a script; sends its text when the server does not know it yet. @throws as `command` */
  async run(script: Script, keys: readonly string[], args: readonly Argument[]): Promise<Reply[]> {
    const rest = [String(keys.length), ...keys, ...args];
    try {
      return (await this.command(keys[0]!, ['EVALSHA', script.sha1, ...rest])) as Reply[];
    } catch (error) {
      if (!isOfServer(error) || !String((error as Error).message).startsWith('NOSCRIPT'))
        throw error;
      return (await this.command(keys[0]!, ['EVAL', script.text, ...rest])) as Reply[];
    }
  }

  close(): void {
    this.#isClosed = true;
    this.#sender.destroy();
  }
}

/** Redis has answered: with an error. */
export function isOfServer(error: unknown): boolean {
  const name = (error as Error | undefined)?.constructor?.name;
  return name === 'ErrorReply' || name === 'SimpleError' || name === 'BlobError';
}

function socketOptions(target: RedisTarget, node: RedisNode): RedisClientOptions {
  return {
    ...(target.username ? { username: target.username } : {}),
    ...(target.password ? { password: target.password } : {}),
    disableOfflineQueue: true,
    pingInterval: PING_INTERVAL_MS,
    socket: {
      host: node.host,
      port: node.port,
      connectTimeout: CONNECT_TIMEOUT_MS,
      socketTimeout: SOCKET_TIMEOUT_MS,
      reconnectStrategy: (tries: number) => Math.min(LONGEST_PAUSE_MS, 20 * 2 ** tries),
      ...(target.tls ? { tls: true } : {}),
    },
  } as RedisClientOptions;
}

function openSingle(
  { createClient, RESP_TYPES }: Library,
  target: RedisTarget,
  onError: (error: unknown) => void,
): Sender {
  const bytes = { ...UNTIMED, typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer } };
  const client = createClient(socketOptions(target, target.nodes[0]!));
  client.on('error', onError);
  client.connect().catch(onError);
  return {
    send: (_key, args, asBytes) =>
      client.sendCommand<Reply>(args, (asBytes ? bytes : UNTIMED) as never) as Promise<Reply>,
    get isReady() {
      return client.isReady;
    },
    destroy() {
      if (client.isOpen) client.destroy();
    },
  };
}

function openCluster(
  { createCluster, RESP_TYPES }: Library,
  target: RedisTarget,
  onError: (error: unknown) => void,
): Sender {
  const bytes = { ...UNTIMED, typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer } };
  const { nodes } = target;
  const { socket, ...defaults } = socketOptions(target, nodes[0]!);
  const { host: _host, port: _port, ...each } = socket as { host?: string; port?: number };
  const client = createCluster({
    rootNodes: nodes.map(node => ({ ...socketOptions(target, node) })),
    defaults: { ...defaults, socket: each },
  } as RedisClusterOptions);
  client.on('error', onError);
  let isClosed = false;
  let connected = false;
  const connect = (tries: number): void => {
    client.connect().then(
      () => {
        connected = true;
        if (isClosed) client.destroy();
      },
      error => {
        onError(error);
        if (!isClosed)
          setTimeout(connect, Math.min(LONGEST_PAUSE_MS, 50 * 2 ** tries), tries + 1).unref();
      },
    );
  };
  connect(0);
  return {
    send: (key, args, asBytes) =>
      client.sendCommand<Reply>(
        key,
        false,
        args,
        (asBytes ? bytes : UNTIMED) as never,
      ) as Promise<Reply>,
    get isReady() {
      return connected && !isClosed;
    },
    destroy() {
      isClosed = true;
      if (connected) client.destroy();
    },
  };
}
