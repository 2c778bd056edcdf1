/**
 * What a unit is, whatever machine it runs on.
 *
 * Glossary:
 * - unit: one supervised process. Its *spec* says how to run it, its *state* how it fares.
 * - ready: it answers its readiness probe; only then are the units after it started.
 * - leftover: a process that an earlier supervisor started and did not live to stop.
 */

/** How to run a unit. Made by an engine (`src/engines`), carried out by a machine. */
export interface UnitSpec {
  /** Unique in the deployment: `web-1`, `postgres-1`. */
  name: string;
  /** The tier it belongs to: `web`, `database`. */
  tier: string;
  /** Absolute path, or a name to look up on the PATH. */
  command: string;
  args: string[];
  cwd: string;
  env: NodeJS.ProcessEnv;
  /** The account to run as; the supervisor's own when left out. */
  user?: Account;
  stop: StopRule;
  /** How long a start may take until the unit is ready. */
  startTimeoutMs: number;
  /** Asked again and again until it answers `ready`. */
  probe: Probe;
  /** Reads the unit's last words after a failure: what they mean, and what to do. */
  diagnose?: (lastWords: string[]) => Diagnosis | undefined;
  /** Where users or other units reach it, for people to read: `http://127.0.0.1:3000`. */
  address?: string;
}

/**
 * @param pid of the main process
 * @param signal aborted when the probe has taken too long, or the unit is to stop
 */
export type Probe = (pid: number, signal: AbortSignal) => Promise<Readiness>;

export interface Diagnosis {
  what: string;
  remedy: string;
}

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
  /** Unexpected exits since `banyan up`. */
  restarts: number;
  /** Why it last ended or is not ready. */
  reason?: string;
}
