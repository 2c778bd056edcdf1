/**
 * A real Redis for a test file, in one line:
 *
 *     const redis = await TestRedis.start();   // in beforeAll; remove() in afterAll
 *
 * On a port that was free, which it keeps through `kill` and `start`. It keeps nothing on disk: it is a cache.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { createClient } from '@redis/client';
import { freePort } from '../../src/machines/free-port.ts';
import { temporaryFolder } from './deployment.ts';
import { until } from './until.ts';

const HOST = '127.0.0.1';

export class TestRedis {
  readonly host = HOST;
  readonly port: number;
  readonly #folder: string;
  readonly #args: readonly string[];
  #process: ChildProcess | undefined;

  private constructor(port: number, folder: string, args: readonly string[]) {
    this.port = port;
    this.#folder = folder;
    this.#args = args;
  }

  /** @param args further ones for `redis-server` */
  static async start(args: readonly string[] = []): Promise<TestRedis> {
    const folder = temporaryFolder();
    mkdirSync(folder, { recursive: true });
    const redis = new TestRedis(await freePort(HOST), folder, args);
    await redis.start();
    return redis;
  }

  get target() {
    return { mode: 'single' as const, nodes: [{ host: this.host, port: this.port }] };
  }

  async start(): Promise<void> {
    const child = spawn(
      'redis-server',
      [
        ...['--bind', HOST, '--port', String(this.port), '--dir', this.#folder],
        ...['--save', '', '--appendonly', 'no', '--maxmemory', '64mb'],
        ...['--maxmemory-policy', 'allkeys-lru'],
        ...this.#args,
      ],
      { stdio: 'ignore' },
    );
    this.#process = child;
    await until(() => answers(this.port), { what: 'Redis starts' });
  }

  /** A frozen server takes connections and answers nobody. */
  freeze(): void {
    this.#process?.kill('SIGSTOP');
  }

  thaw(): void {
    this.#process?.kill('SIGCONT');
  }

  /** SIGKILL: all that it held is lost. It stays down. */
  async kill(): Promise<void> {
    const child = this.#process;
    if (!child) return;
    this.#process = undefined;
    const ended = new Promise(resolve => child.once('exit', resolve));
    child.kill('SIGCONT');
    child.kill('SIGKILL');
    await ended;
  }

  /** Sends one command over a connection of its own. */
  async command(...args: string[]): Promise<unknown> {
    const client = createClient({ socket: { host: HOST, port: this.port } });
    client.on('error', () => {});
    await client.connect();
    try {
      return await client.sendCommand(args);
    } finally {
      client.destroy();
    }
  }

  async remove(): Promise<void> {
    await this.kill();
    await rm(this.#folder, { recursive: true, force: true });
  }
}

function answers(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(port, HOST);
    socket.once('error', () => resolve(false));
    socket.once('connect', () => socket.write('PING\r\n'));
    socket.once('data', data => {
      socket.destroy();
      resolve(String(data).startsWith('+PONG'));
    });
  });
}
