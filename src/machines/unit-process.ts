/**
 * One unit under supervision: started until ready, started again when it ends unasked, stopped with
 * everything that it started.
 *
 * Holds true here:
 * - A unit runs in a session and process group of its own, so that a Ctrl-C in the terminal reaches
 *   the supervisor alone, which then stops units in their order.
 * - The record on disk exists from just after the start of the process until it has ended.
 * - The first start either succeeds or throws; from then on an exit leads to a new start, with a
 *   growing pause.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { BanyanError } from '../errors.ts';
import { endDetached } from './leftovers.ts';
import { groupRuns, identify, sendSignal } from './process-identity.ts';
import type { UnitRecords } from './records.ts';
import type { Diagnosis, EngineSupport, UnitPhase, UnitSpec, UnitState } from './unit.ts';
import { logFile, type UnitLogs } from './unit-log.ts';

/** The pause before a restart: the first, the longest, and the run after which it is the first again. */
const RESTART_PAUSE_MS = 100;
const RESTART_PAUSE_LIMIT_MS = 15_000;
const HEALTHY_RUN_MS = 60_000;

/** The pause between readiness probes: short at first, when an engine is about to be ready. */
const PROBE_PAUSE_MS = 10;
const PROBE_PAUSE_LIMIT_MS = 100;
/** One probe may take this long. */
const PROBE_TIMEOUT_MS = 2_000;

/** The last words of a unit that are shown when it fails. */
const LAST_WORDS = 15;
/** Those that are searched for the reason: of Python's the last 15 may all be where it happened. */
const SEARCHED_WORDS = 200;
/** How long to read on after a unit's end. */
const LAST_WORDS_TIMEOUT_MS = 500;

export class UnitStartFailed extends BanyanError {
  /** The last lines that the unit wrote. */
  readonly output: string[];
  /** On other ports it may start. */
  readonly lostPort: boolean;

  constructor(
    unit: string,
    reason: string,
    output: string[],
    logFile: string,
    diagnosis?: Diagnosis,
  ) {
    const quoted = output.map(line => `\n  │ ${line}`).join('');
    const lastWords = quoted ? `. Its last words:${quoted}\n` : ', and it wrote nothing';
    super('UNIT_START_FAILED', {
      what: `${unit} did not start: ${diagnosis?.what ?? reason}${lastWords}`,
      where: unit,
      remedy:
        diagnosis?.remedy ?? `Correct what it says and try again; its whole log is ${logFile}`,
    });
    this.output = output;
    this.lostPort = diagnosis?.lostPort ?? false;
  }
}

/** One run of the unit's process. */
interface Run {
  child: ChildProcess;
  pid: number;
  /** Resolves with the reason when the process has ended, and its group with it. */
  ended: Promise<string>;
  hasEnded: () => boolean;
}

export interface UnitContext {
  engine: EngineSupport;
  /** Its place when everything is stopped: from the highest to the lowest. */
  order: number;
  /** File descriptors that the process gets as 3, 4, … */
  descriptors: number[];
  logs: UnitLogs;
  logFolder: string;
  records: UnitRecords;
}

export class UnitProcess extends EventEmitter<{ change: [UnitState] }> {
  readonly spec: UnitSpec;
  readonly #context: UnitContext;
  readonly #logs: UnitLogs;
  readonly #records: UnitRecords;

  #phase: UnitPhase = 'stopped';
  #run: Run | undefined;
  #restarts = 0;
  #reason: string | undefined;
  /** When the last run began. */
  #runSince = new Date();
  /** Aborted when the unit is to stop: ends pauses and probes. */
  #stopping = new AbortController();
  #supervision: Promise<void> = Promise.resolve();

  constructor(spec: UnitSpec, context: UnitContext) {
    super();
    this.spec = spec;
    this.#context = context;
    this.#logs = context.logs;
    this.#records = context.records;
  }

  get order(): number {
    return this.#context.order;
  }

  state(): UnitState {
    const { name, tier, address, labels = {} } = this.spec;
    return {
      name,
      tier,
      phase: this.#phase,
      labels,
      restarts: this.#restarts,
      ...(this.#run ? { pid: this.#run.pid, since: this.#runSince.toISOString() } : {}),
      ...(address ? { address } : {}),
      ...(this.#reason ? { reason: this.#reason } : {}),
    };
  }

  /**
   * Starts the unit and resolves when it is ready. From then on it is kept running.
   * @throws UnitStartFailed
   */
  async start(): Promise<void> {
    this.#stopping = new AbortController();
    const outcome = await this.#launch();
    if (outcome !== 'ready') {
      await this.#endDetached();
      this.#become('stopped', outcome);
      throw new UnitStartFailed(
        this.spec.name,
        outcome,
        this.#logs.recent(LAST_WORDS, this.spec.name).map(({ text }) => text),
        logFile(this.#context.logFolder, this.spec.name),
        this.#diagnose(),
      );
    }
    this.#supervision = this.#superviseRuns();
  }

  /** Sends the main process a signal; nothing when it does not run. */
  signal(signal: NodeJS.Signals): void {
    if (this.#run && !this.#run.hasEnded()) sendSignal(this.#run.pid, signal, false);
  }

  /** Stops the unit gracefully, by force when that takes too long, and resolves when nothing of it is left. */
  async stop(): Promise<void> {
    if (this.#phase === 'stopped') return;
    this.#become('stopping');
    this.#stopping.abort();
    await this.#endRun();
    await this.#supervision;
    await this.#endDetached();
    this.#become('stopped');
  }

  async #endDetached(): Promise<void> {
    const { name, detached } = this.spec;
    if (!detached) return;
    await endDetached(name, detached);
    this.#records.remove(name);
  }

  /** @returns `ready`, or why it is not; in that case nothing of it is left running */
  async #launch(): Promise<string> {
    this.#become('starting');
    try {
      this.#run = await this.#spawn();
    } catch (error) {
      return (error as Error).message;
    }
    const outcome = await this.#untilReady(this.#run);
    if (outcome === 'ready') this.#become('ready');
    else await this.#endRun();
    return outcome;
  }

  async #spawn(): Promise<Run> {
    const { command, args, cwd, env, user, name, tier, stop, detached } = this.spec;
    this.#runSince = new Date();
    const child = spawn(command, args, {
      cwd,
      env,
      ...user,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe', ...this.#context.descriptors],
    });
    // At once: when a process ends, Node throws away what nobody reads yet.
    if (child.stdout) this.#logs.attach(name, child.stdout);
    if (child.stderr) this.#logs.attach(name, child.stderr);
    const { promise: ended, resolve: end } = Promise.withResolvers<string>();
    let over = false;
    const closed = new Promise<void>(resolve => child.once('close', () => resolve()));
    child.once('exit', (code, signal) => {
      void this.#endGroup(child.pid!, closed).then(() => {
        over = true;
        // What it detached may still run: the record stays until that has ended too.
        if (!this.spec.detached) this.#records.remove(name);
        end(signal ? `it was ended by ${signal}` : `it ended with exit code ${code}`);
      });
    });
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve);
      child.once('error', reject);
    });
    const pid = child.pid!;
    const identity = await identify(pid);
    if (identity) {
      this.#records.save({
        ...identity,
        name,
        tier,
        order: this.order,
        stop,
        ...(detached ? { detached } : {}),
      });
    }
    return { child, pid, ended, hasEnded: () => over };
  }

  async #untilReady(run: Run): Promise<string> {
    const deadline = performance.now() + this.spec.startTimeoutMs;
    let pause = PROBE_PAUSE_MS;
    let reason = 'it has not answered yet';
    let endReason: string | undefined;
    void run.ended.then(text => {
      endReason = text;
    });
    while (performance.now() < deadline) {
      const limit = AbortSignal.any([AbortSignal.timeout(PROBE_TIMEOUT_MS), this.#stopping.signal]);
      const answer = await this.#context.engine
        .probe(this.spec, run.pid, limit)
        .catch(error => ({ ready: false as const, reason: (error as Error).message }));
      if (endReason !== undefined) return endReason;
      if (this.#stopping.signal.aborted) return 'it was stopped';
      if (answer.ready) return 'ready';
      reason = answer.reason;
      await Promise.race([this.#pause(pause), run.ended]);
      pause = Math.min(pause * 1.3, PROBE_PAUSE_LIMIT_MS);
    }
    return `it was not ready after ${this.spec.startTimeoutMs / 1_000} s: ${reason}`;
  }

  /** Waits for the end of the run, starts another after a pause, and so on until a stop is asked for. */
  async #superviseRuns(): Promise<void> {
    let outcome = 'ready';
    let pause = RESTART_PAUSE_MS;
    for (;;) {
      const readyAt = performance.now();
      const reason = outcome === 'ready' ? ((await this.#run?.ended) ?? outcome) : outcome;
      if (performance.now() - readyAt > HEALTHY_RUN_MS) pause = RESTART_PAUSE_MS;
      this.#run = undefined;
      if (this.#stopping.signal.aborted) return;

      this.#restarts++;
      const diagnosis = this.#diagnose();
      const why = diagnosis ? `${diagnosis.what}. ${diagnosis.remedy}` : reason;
      this.#note(`${why}; starting it again in ${pause} ms`);
      this.#become('waiting to restart', why);
      await this.#pause(pause);
      pause = Math.min(pause * 2, RESTART_PAUSE_LIMIT_MS);
      if (this.#stopping.signal.aborted) return;
      outcome = await this.#launch();
    }
  }

  /** Asks the current run to stop; kills it in the end; resolves when it is gone. */
  async #endRun(): Promise<void> {
    const run = this.#run;
    if (!run) return;
    const { stop } = this.spec;
    if (!run.hasEnded()) {
      sendSignal(run.pid, stop.signal, stop.group);
      sendSignal(run.pid, 'SIGCONT', stop.group);
      const patience = new AbortController();
      await Promise.race([
        run.ended,
        delay(stop.timeoutMs, undefined, { signal: patience.signal }).catch(() => {}),
      ]);
      patience.abort();
      if (!run.hasEnded()) {
        this.#note(`it did not stop within ${stop.timeoutMs / 1_000} s and is killed`);
        sendSignal(run.pid, 'SIGKILL', stop.group);
        await run.ended;
      }
    }
    if (this.#run === run) this.#run = undefined;
  }

  /**
   * The main process has ended; what it started may still be finishing (a shell dies at once, the
   * server that it started drains). It gets the same time, and is then killed.
   */
  async #endGroup(pid: number, closed: Promise<void>): Promise<void> {
    const { stop } = this.spec;
    if (stop.group && sendSignal(pid, stop.signal, true)) await this.#untilGroupEnds(pid);
    // Its last words are still in the pipe; a process that left the group may hold the other end.
    await Promise.race([closed, delay(LAST_WORDS_TIMEOUT_MS, undefined, { ref: false })]);
  }

  async #untilGroupEnds(pid: number): Promise<void> {
    const { stop } = this.spec;
    const deadline = performance.now() + stop.timeoutMs;
    while (performance.now() < deadline) {
      await delay(20);
      if (!(await groupRuns(pid))) return;
    }
    sendSignal(pid, 'SIGKILL', true);
  }

  async #pause(ms: number): Promise<void> {
    await delay(ms, undefined, { signal: this.#stopping.signal }).catch(() => {});
  }

  /** From what its last run wrote. */
  #diagnose(): Diagnosis | undefined {
    const since = this.#runSince.toISOString();
    const words = this.#logs
      .recent(SEARCHED_WORDS, this.spec.name)
      .filter(({ time }) => time >= since)
      .map(({ text }) => text);
    return this.#context.engine.diagnose?.(this.spec, words);
  }

  /** A remark of the supervisor in the unit's own log, where whoever looks for a cause will read. */
  #note(text: string): void {
    this.#logs.write(this.spec.name, `banyan: ${text}`);
  }

  #become(phase: UnitPhase, reason?: string): void {
    this.#phase = phase;
    this.#reason = reason;
    this.emit('change', this.state());
  }
}
