/**
 * RabbitMQ as a unit: a node that keeps the queue's messages; alone, or as one of a cluster of three.
 *
 * Holds true here:
 * - Only this machine can reach it, and only with the deployment's password. There is no `guest`, and nobody else's Erlang
 *   can join it: its cookie is its own.
 * - What programs agree on through `epmd` (who is where) goes through one of our own, a unit as well: the daemon that
 *   Erlang starts by itself would outlive everything.
 * - One that is started with an empty folder joins the nodes that it is told of; one that was there before goes on.
 */
import { chown, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { BanyanError } from '../errors.ts';
import {
  type Account,
  type Diagnosis,
  type EngineSupport,
  type Labels,
  PORT_LOST,
  type UnitSpec,
} from '../machines/unit.ts';
import { findProgram } from './find-program.ts';

/** Workers and web servers publish to it until they have ended; before the database. */
const RANK = 11;
/** Nodes ask it where the others are, also while they stop. */
const EPMD_RANK = 10;
const START_TIMEOUT_MS = 120_000;
const STOP_TIMEOUT_MS = 30_000;
const EPMD_TIMEOUT_MS = 5_000;

export const EPMD = 'epmd-1';
const LOOPBACK = '127.0.0.1';

/** Debian has the programs themselves here; what is in `sbin` insists on an account of its own. */
const PROGRAM_FOLDERS = ['/usr/lib/rabbitmq/bin'];

export class RabbitMqMissing extends BanyanError {
  constructor(program: string) {
    super('RABBITMQ_MISSING', {
      what: 'A queue outside of PostgreSQL needs RabbitMQ, and it is not installed',
      where: program,
      remedy:
        'Install it: `sudo apt-get install -y --no-install-recommends rabbitmq-server` (macOS: `brew install rabbitmq`), or name one that you run in `queue.url`. Debian starts a server of its own with it, which is not needed: `sudo systemctl disable --now rabbitmq-server`',
    });
  }
}

/** Path of `rabbitmq-server`, `rabbitmqctl` or `rabbitmq-queues`. @throws RabbitMqMissing */
export function findRabbitMq(program: string): string {
  // Not first by the PATH: on Debian that finds the wrapper.
  const found = findProgram(program, PROGRAM_FOLDERS.join(path.delimiter));
  if (!found) throw new RabbitMqMissing(program);
  return found;
}

/** One node. */
export interface RabbitMqNode {
  /** The unit's, `rabbitmq-1`. */
  name: string;
  host: string;
  /** For AMQP. */
  port: number;
  /** For other nodes and the command line. */
  nodePort: number;
  /** For figures: `http://host:port/metrics`. */
  metricsPort: number;
}

export interface RabbitMqUnitOptions {
  node: RabbitMqNode;
  /** Its own. */
  folder: string;
  /** Names of the nodes that there are, this one among them. */
  members: readonly string[];
  epmdPort: number;
  user: string;
  password: string;
  /** A secret that all nodes have. */
  cookie: string;
  memoryMb: number;
  freeDiskMb: number;
  labels: Labels;
  account: Account | undefined;
}

/** As Erlang calls a node. */
export function nodeName(unit: string): string {
  return `${unit}@localhost`;
}

/** `rabbitmq.conf`, whole. Pure. */
export function renderRabbitMqConf(options: RabbitMqUnitOptions): string {
  const { node, members, user, password, memoryMb, freeDiskMb } = options;
  const lines = [
    `listeners.tcp.1 = ${node.host}:${node.port}`,
    `prometheus.tcp.ip = ${node.host}`,
    `prometheus.tcp.port = ${node.metricsPort}`,
    `default_user = ${user}`,
    `default_pass = ${password}`,
    // Publishers are made to wait beyond these; nothing is lost.
    `vm_memory_high_watermark.absolute = ${memoryMb}MiB`,
    `disk_free_limit.absolute = ${freeDiskMb}MiB`,
    // A handler may take for hours; a consumer that is gone is known by its connection.
    'consumer_timeout = 2592000000',
    'log.console = true',
    'log.console.level = warning',
    'log.file = false',
    'cluster_formation.peer_discovery_backend = classic_config',
    ...members.map(
      (member, index) =>
        `cluster_formation.classic_config.nodes.${index + 1} = ${nodeName(member)}`,
    ),
    // What is confirmed is on a majority whatever this says; it brings a node back that stood still.
    'cluster_partition_handling = autoheal',
  ];
  return `# Written by Banyan at every start.\n${lines.join('\n')}\n`;
}

/** Writes a node's files and makes the unit that runs it. @throws RabbitMqMissing */
export async function prepareRabbitMq(options: RabbitMqUnitOptions): Promise<UnitSpec> {
  const { node, folder, account, labels, cookie } = options;
  const command = findRabbitMq('rabbitmq-server');
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const files = {
    'rabbitmq.conf': renderRabbitMqConf(options),
    enabled_plugins: '[rabbitmq_prometheus].\n',
    '.erlang.cookie': cookie,
  };
  if (account) await chown(folder, account.uid, account.gid);
  for (const [name, text] of Object.entries(files)) {
    const file = path.join(folder, name);
    const draft = `${file}.new`;
    await rm(draft, { force: true });
    // Erlang refuses a cookie that others could read.
    await writeFile(draft, text, { mode: 0o600 });
    if (account) await chown(draft, account.uid, account.gid);
    await rename(draft, file);
  }
  const { name, host, port } = node;
  return {
    name,
    tier: 'queue',
    engine: 'rabbitmq',
    command,
    args: [],
    cwd: folder,
    env: {
      ...rabbitMqEnv(name, folder, options.epmdPort),
      RABBITMQ_DIST_PORT: String(node.nodePort),
      RABBITMQ_MNESIA_BASE: path.join(folder, 'data'),
      RABBITMQ_LOG_BASE: folder,
      RABBITMQ_LOGS: '-',
      RABBITMQ_CONFIG_FILE: path.join(folder, 'rabbitmq.conf'),
      RABBITMQ_ENABLED_PLUGINS_FILE: path.join(folder, 'enabled_plugins'),
      RABBITMQ_GENERATED_CONFIG_DIR: path.join(folder, 'generated'),
      // Idle schedulers that wait actively would take a processor. A write to the log that is durable when it returns saves the sync after
      // it, and with it two changes of thread: 15 to 20 % of what a confirmation takes.
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: `+S ${schedulers()} +sbwt none -ra wal_write_strategy o_sync -start_epmd false -kernel inet_dist_use_interface {127,0,0,1}`,
      // The script then becomes the server, in the place of standing by to pass signals on.
      RUNNING_UNDER_SYSTEMD: 'true',
    },
    ...(account ? { user: account } : {}),
    stop: { signal: 'SIGTERM', group: false, timeoutMs: STOP_TIMEOUT_MS },
    rank: RANK,
    startTimeoutMs: START_TIMEOUT_MS,
    probe: { host, port },
    address: `${host}:${port}`,
    labels,
  };
}

/** Half of the processors: it shares the machine. On two a second gains nothing (tried). */
function schedulers(): number {
  return Math.max(1, Math.floor(availableParallelism() / 2));
}

/** What a node and the programs that talk to it agree on. */
export function rabbitMqEnv(unit: string, folder: string, epmdPort: number): NodeJS.ProcessEnv {
  return {
    PATH: process.env.PATH,
    LANG: 'C.UTF-8',
    // The cookie is read from there.
    HOME: folder,
    RABBITMQ_NODENAME: nodeName(unit),
    // The system's settings are those of the system's own server.
    RABBITMQ_CONF_ENV_FILE: path.join(folder, 'none'),
    ERL_EPMD_PORT: String(epmdPort),
    ERL_EPMD_ADDRESS: LOOPBACK,
    // Whoever asks a node while ours is away must not start one that nobody would end.
    RABBITMQ_CTL_ERL_ARGS: '-start_epmd false',
  };
}

export const rabbitMqEngine: EngineSupport = {
  async probe({ probe: { host, port } }, _pid, signal) {
    try {
      await greet(String(host), Number(port), signal);
      return { ready: true };
    } catch (error) {
      return { ready: false, reason: (error as Error).message };
    }
  },
  diagnose: (_spec, lastWords) => diagnose(lastWords),
};

/** What a client sends first (AMQP 0-9-1, 4.2.2); a server that serves answers with a frame. */
const GREETING = Buffer.from('AMQP\0\0\x09\x01', 'latin1');

function greet(host: string, port: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const socket = connect({ host, port, signal });
  socket.once('connect', () => socket.write(GREETING));
  socket.once('data', (data: Buffer) => {
    // A method frame, on channel 0.
    if (data[0] === 1) resolve();
    else reject(new Error('it speaks another protocol'));
    socket.destroy();
  });
  socket.on('error', reject);
  socket.once('close', () => reject(new Error('it does not answer yet')));
  return promise;
}

function diagnose(lastWords: string[]): Diagnosis | undefined {
  const text = lastWords.join('\n');
  if (/eaddrinuse/i.test(text)) {
    return PORT_LOST;
  }
  if (/enospc|no space left/i.test(text)) {
    return { what: 'the disk is full', remedy: 'Free some space; `df -h` shows where it went' };
  }
  if (/timeout_waiting_for_tables|waiting for Mnesia tables/i.test(text)) {
    return {
      what: 'it waits for the other nodes of its cluster',
      remedy: 'Start those as well: `banyan status` shows them',
    };
  }
  return undefined;
}

/** Where nodes find each other. @throws RabbitMqMissing */
export function epmdUnit(port: number, account: Account | undefined): UnitSpec {
  const command = findProgram('epmd');
  if (!command) throw new RabbitMqMissing('epmd');
  return {
    name: EPMD,
    tier: 'queue',
    engine: 'epmd',
    command,
    args: ['-port', String(port), '-address', LOOPBACK],
    cwd: '/',
    env: { PATH: process.env.PATH },
    ...(account ? { user: account } : {}),
    stop: { signal: 'SIGTERM', group: false, timeoutMs: EPMD_TIMEOUT_MS },
    rank: EPMD_RANK,
    startTimeoutMs: EPMD_TIMEOUT_MS,
    probe: { host: LOOPBACK, port },
    address: `${LOOPBACK}:${port}`,
    labels: { port },
  };
}

export const epmdEngine: EngineSupport = {
  async probe({ probe: { host, port } }, _pid, signal) {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const socket = connect({ host: String(host), port: Number(port), signal });
    socket.once('connect', () => resolve(true));
    socket.once('error', () => resolve(false));
    const ready = await promise;
    socket.destroy();
    return ready ? { ready } : { ready, reason: 'it does not listen yet' };
  },
};
