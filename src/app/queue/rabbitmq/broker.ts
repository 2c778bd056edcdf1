/**
 * Where RabbitMQ is, as the runtime map says, and connections to it. Without one in the map nothing is loaded.
 */
import type { Connection } from 'rabbitmq-client';
import { readRuntimeMap, watchRuntimeMap } from '../../../map/map-file.ts';
import type { QueueMap } from '../../../map/runtime-map.ts';
import { QUEUE_URL_VARIABLE, readEnvironment } from '../../environment.ts';
import { log } from '../../telemetry/log.ts';

const CONNECT_MS = 2_000;
/** A node that says nothing for two of these is lost. */
const HEARTBEAT_S = 5;
const RETRY_LOW_MS = 100;
const RETRY_HIGH_MS = 2_000;

export type BrokerAddress = QueueMap['rabbitmq'];

export class Broker {
  readonly #url: URL;
  readonly #listeners = new Set<() => void>();
  readonly #stopWatching: () => void;
  #at: BrokerAddress | undefined;

  /** Undefined where no map can name one. */
  static find(env: NodeJS.ProcessEnv = process.env): Broker | undefined {
    const { mapFile } = readEnvironment(env);
    const url = env[QUEUE_URL_VARIABLE];
    return mapFile && url ? new Broker(mapFile, url) : undefined;
  }

  private constructor(mapFile: string, url: string) {
    this.#url = new URL(url);
    const map = readRuntimeMap(mapFile);
    this.#at = map.queue?.rabbitmq;
    const stop = watchRuntimeMap(mapFile, map, ({ queue }) => {
      if (JSON.stringify(queue?.rabbitmq) === JSON.stringify(this.#at)) return;
      this.#at = queue?.rabbitmq;
      for (const listener of this.#listeners) listener();
    });
    this.#stopWatching = stop;
  }

  /** Undefined: there is none. */
  get at(): BrokerAddress | undefined {
    return this.#at;
  }

  /** Calls when another is to be used, or none. @returns how to stop that */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** A connection to the nodes that there are now; it comes back by itself. */
  async open(name: string): Promise<Connection> {
    const { Connection } = await import('rabbitmq-client');
    const { nodes, tls = false } = this.#at!;
    const connection = new Connection({
      // In any order: not all processes to the same node.
      hosts: nodes.map(({ host, port }) => `${host}:${port}`).sort(() => Math.random() - 0.5),
      username: decodeURIComponent(this.#url.username),
      password: decodeURIComponent(this.#url.password),
      vhost: decodeURIComponent(this.#url.pathname.slice(1)) || '/',
      connectionName: name,
      connectionTimeout: CONNECT_MS,
      acquireTimeout: CONNECT_MS,
      heartbeat: HEARTBEAT_S,
      retryLow: RETRY_LOW_MS,
      retryHigh: RETRY_HIGH_MS,
      // A small write that waits for the other side's acknowledgement waits 40 ms now and then.
      noDelay: true,
      ...(tls ? { tls: true } : {}),
    });
    connection.on('error', error => log.debug({ err: error }, 'the connection to RabbitMQ broke'));
    return connection;
  }

  close(): void {
    this.#stopWatching();
    this.#listeners.clear();
  }
}
