/**
 * The invalidator's socket: tells processes what changes, and hears from them what to invalidate.
 *
 * Holds true here:
 * - Who connects hears what is covered, then what was told in the last minute, then what comes: in order, without a hole.
 * - One that reads too slowly is cut off, which is a gap for it; the others do not wait for it.
 */
import { chmodSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import type { Batch, FeedEvent } from '../../../app/cache/feed.ts';
import {
  type CacheReport,
  Lines,
  packEvent,
  type ToInvalidator,
  type ToProcess,
} from '../../../app/cache/feed-socket/wire.ts';
import type { Coverages } from '../../../app/cache/tags.ts';

/** A process that has just started then knows as much as the others. */
const HISTORY_MS = 60_000;
const MOST_HISTORY = 5_000;
/** What waits for a process that does not read. */
const BACKLOG_BYTES = 16 * 1024 * 1024;

interface Told {
  readonly at: number;
  readonly line: string;
}

interface Channel {
  covers: { from: bigint; tables: Coverages } | undefined;
  history: Told[];
}

interface Listener {
  readonly socket: Socket;
  name: string;
  report: CacheReport | undefined;
}

export interface FeedServerOptions {
  /** Where it listens: only this account may connect. */
  readonly path: string;
  /** Applies tags that a process names; resolves when they were told and stored. */
  readonly invalidate: (tags: readonly string[]) => Promise<void>;
  readonly status: () => unknown;
}

export class FeedServer {
  readonly #options: FeedServerOptions;
  readonly #listeners = new Set<Listener>();
  readonly #channels = new Map<string, Channel>();
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  #serves = false;

  constructor(options: FeedServerOptions) {
    this.#options = options;
  }

  async listen(): Promise<void> {
    const { path } = this.#options;
    rmSync(path, { force: true });
    const server = createServer(socket => this.#welcome(socket));
    this.#server = server;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
    chmodSync(path, 0o600);
  }

  /** From now on it is the one that tells. */
  serve(): void {
    this.#serves = true;
  }

  get listeners(): number {
    return this.#listeners.size;
  }

  /** What the processes that are there have told. */
  reports(): CacheReport[] {
    return [...this.#listeners].flatMap(({ report }) => report ?? []);
  }

  covers(cluster: string, from: bigint, tables: Coverages): void {
    this.#channel(cluster).covers = { from, tables };
    this.#tell({ kind: 'covers', cluster, from, tables });
  }

  batch(batch: Batch): void {
    const { history } = this.#channel(batch.cluster);
    const line = this.#tell({ kind: 'batch', batch });
    const now = performance.now();
    history.push({ at: now, line });
    let surplus = Math.max(0, history.length - MOST_HISTORY);
    while (surplus < history.length && history[surplus]!.at < now - HISTORY_MS) surplus++;
    if (surplus > history.length / 4 || surplus > 1_000) history.splice(0, surplus);
  }

  gap(cluster: string, upto: bigint | undefined, reason: string): void {
    const channel = this.#channel(cluster);
    channel.history = [];
    channel.covers = undefined;
    this.#tell({ kind: 'gap', cluster, upto, reason });
  }

  /** Of a cluster that is no more. */
  forget(cluster: string): void {
    this.gap(cluster, undefined, 'it is not followed any more');
    this.#channels.delete(cluster);
  }

  close(): void {
    this.#serves = false;
    for (const socket of this.#sockets) socket.destroy();
    this.#server?.close();
    rmSync(this.#options.path, { force: true });
  }

  #channel(cluster: string): Channel {
    let channel = this.#channels.get(cluster);
    if (!channel) {
      channel = { covers: undefined, history: [] };
      this.#channels.set(cluster, channel);
    }
    return channel;
  }

  #tell(event: FeedEvent): string {
    const line = `${JSON.stringify(packEvent(event))}\n`;
    for (const { socket } of this.#listeners) {
      if (socket.writableLength > BACKLOG_BYTES) socket.destroy();
      else socket.write(line);
    }
    return line;
  }

  #welcome(socket: Socket): void {
    const listener: Listener = { socket, name: '', report: undefined };
    const lines = new Lines();
    this.#sockets.add(socket);
    socket.setEncoding('utf8');
    socket.on('error', () => {});
    socket.once('close', () => {
      this.#sockets.delete(socket);
      this.#listeners.delete(listener);
    });
    socket.on('data', text => {
      try {
        for (const line of lines.take(String(text))) {
          this.#hear(listener, JSON.parse(line) as ToInvalidator);
        }
      } catch {
        // None of ours.
        socket.destroy();
      }
    });
  }

  #hear(listener: Listener, message: ToInvalidator): void {
    const { socket } = listener;
    if ('ask' in message) {
      send(socket, { status: this.#options.status() });
      return;
    }
    if ('report' in message) {
      listener.report = message.report;
      return;
    }
    if ('invalidate' in message) {
      const { id, invalidate } = message;
      this.#options.invalidate(invalidate).then(
        () => send(socket, { done: id }),
        // Whoever asked learns from the silence.
        () => {},
      );
      return;
    }
    listener.name = message.hello;
    if (!this.#serves) {
      socket.end(`${JSON.stringify({ standby: true })}\n`);
      return;
    }
    for (const [cluster, { covers, history }] of this.#channels) {
      if (!covers) continue;
      send(socket, packEvent({ kind: 'covers', cluster, ...covers }));
      for (const { line } of history) socket.write(line);
    }
    this.#listeners.add(listener);
  }
}

function send(socket: Socket, message: ToProcess): void {
  socket.write(`${JSON.stringify(message)}\n`);
}
