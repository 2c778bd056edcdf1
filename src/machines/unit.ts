/**
 * What a unit is, whatever machine it runs on.
 *
 * Glossary:
 * - unit: one supervised process. Its *spec* says how to run it, its *state* how it fares.
 * - ready: it answers its readiness probe; only then are the units after it started.
 * - leftover: a process that an earlier supervisor started and did not live to stop.
 * - engine: the program that a unit runs, as far as it has to be understood: how to ask whether it serves,
 *   and what its last words mean.
 * - socket: a listening socket that belongs to the machine, not to a unit: see `listening-socket.ts`.
 *
 * A spec is plain data, so that a command can hand it to a supervisor in another process, or on
 * another machine.
 */

/** How to run a unit. Made by an engine (`src/engines`), carried out by a machine. */
export interface UnitSpec {
  /** Unique in the deployment: `web-1`, `postgres-1`. */
  name: string;
  /** The tier it belongs to: `web`, `database`, `balancer`. */
  tier: string;
  /** Name of the engine that understands it. */
  engine: string;
  /** Absolute path, or a name to look up on the PATH. */
  command: string;
  args: string[];
  cwd: string;
  env: NodeJS.ProcessEnv;
  /** The account to run as; the supervisor's own when left out. */
  user?: Account;
  stop: StopRule;
  /**
   * A process that the unit puts into a session of its own, as Patroni does with PostgreSQL. It ends with the
   * unit; when the unit is started anew after a crash, it takes the process over.
   */
  detached?: DetachedProcess;
  /** Units are stopped from the highest rank to the lowest, within one the last started first. */
  rank: number;
  /** How long a start may take until the unit is ready. */
  startTimeoutMs: number;
  /** What the engine needs to ask whether it is ready. */
  probe: ProbeFacts;
  /** Sockets of the machine that it gets as file descriptors 3, 4, … in this order. */
  sockets?: SocketAddress[];
  /** Where users or other units reach it, for people to read: `http://127.0.0.1:3000`. */
  address?: string;
  /** What whoever looks at it later has to know: its port, its release. */
  labels?: Labels;
}

export type ProbeFacts = Readonly<Record<string, string | number>>;
export type Labels = Readonly<Record<string, string | number | boolean>>;

export interface SocketAddress {
  /** An IP address. */
  host: string;
  port: number;
}

/** What a machine has to know of a program to supervise it. */
export interface EngineSupport {
  /**
   * Asked again and again until it answers `ready`.
   * @param pid of the main process
   * @param signal aborted when the probe has taken too long, or the unit is to stop
   */
  probe(spec: UnitSpec, pid: number, signal: AbortSignal): Promise<Readiness>;
  /** Reads the unit's last words after a failure: what they mean, and what to do. */
  diagnose?(spec: UnitSpec, lastWords: string[]): Diagnosis | undefined;
}

export interface Diagnosis {
  what: string;
  remedy: string;
  /** On other ports it may start. */
  lostPort?: true;
}

/** Between choosing a port and listening on it somebody was faster: a server, or a connection that went out from it. */
export const PORT_LOST: Diagnosis = {
  what: 'another program took its port',
  remedy: 'Run the command again to get another port',
  lostPort: true,
};

export interface Account {
  uid: number;
  gid: number;
}

export interface StopRule {
  /** Asks for a graceful stop. */
  signal: NodeJS.Signals;
  /**
   * Send it to every process of the unit's group, not to the main one alone: right for a shell
   * that started others, wrong for PostgreSQL, whose main process passes it on itself.
   */
  group: boolean;
  /** After this the unit is killed. */
  timeoutMs: number;
}

export interface DetachedProcess {
  /** Its first line is the process id. */
  pidFile: string;
  /** What the process's command line has in it: by that time the id may be another's. */
  commandHas: string;
  stop: StopRule;
}

export type Readiness = { ready: true } | { ready: false; reason: string };

export type UnitPhase = 'starting' | 'ready' | 'stopping' | 'stopped' | 'waiting to restart';

/** How a unit fares: what `banyan status` shows. */
export interface UnitState {
  name: string;
  tier: string;
  phase: UnitPhase;
  pid?: number;
  /** When this run of it started, as ISO 8601. */
  since?: string;
  address?: string;
  labels: Labels;
  /** Unexpected exits since it was started. */
  restarts: number;
  /** Why it last ended or is not ready. */
  reason?: string;
}

/** Where units run. Two kinds: in this process (`LocalMachine`), and behind a supervisor's socket. */
export interface Machine {
  /**
   * Opens a listening socket that the machine keeps until the last unit that serves it has been stopped.
   * @param port 0 takes any free one
   * @returns the port
   * @throws PortInUse, AddressNotHere
   */
  listen(address: SocketAddress): Promise<number>;
  /** Starts a unit and resolves when it is ready; from then on it is kept running. @throws UnitStartFailed */
  start(spec: UnitSpec): Promise<void>;
  /** Stops a unit gracefully, by force when that takes too long. A unit that is not there is stopped. */
  stop(name: string): Promise<void>;
  /** Sends a unit's main process a signal that has a meaning to it, such as "read your file again". */
  signal(name: string, signal: NodeJS.Signals): Promise<void>;
  states(): Promise<UnitState[]>;
}
