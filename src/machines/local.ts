/**
 * The local machine: units as child processes of this one.
 *
 * Units are started one after the other, each when the one before is ready, and stopped in the
 * reverse order. While anything runs a guardian stands by, so that nothing outlives a supervisor that
 * is killed.
 */
import { EventEmitter } from 'node:events';
import { BanyanError } from '../errors.ts';
import { Guardian } from './guardian.ts';
import { endLeftovers } from './leftovers.ts';
import { UnitRecords } from './records.ts';
import type { UnitSpec, UnitState } from './unit.ts';
import { type LogLimits, UnitLogs } from './unit-log.ts';
import { UnitProcess } from './unit-process.ts';

export interface LocalMachineOptions {
  /** Where the records of running units lie. */
  recordsFolder: string;
  logFolder: string;
  logLimits: LogLimits;
}

export class MachineStopped extends BanyanError {
  constructor(unit: string) {
    super('MACHINE_STOPPED', {
      what: 'No unit is started any more: everything is being stopped',
      where: unit,
    });
  }
}

export class LocalMachine extends EventEmitter<{ change: [UnitState] }> {
  readonly logs: UnitLogs;
  readonly #options: LocalMachineOptions;
  readonly #records: UnitRecords;
  readonly #units: UnitProcess[] = [];
  #guardian: Guardian | undefined;
  #closed = false;

  constructor(options: LocalMachineOptions) {
    super();
    this.#options = options;
    this.#records = new UnitRecords(options.recordsFolder);
    this.logs = new UnitLogs(options.logFolder, options.logLimits);
  }

  /** Ends what an earlier supervisor left; see `leftovers.ts`. */
  endLeftovers(): Promise<string[]> {
    return endLeftovers(this.#records);
  }

  /**
   * Starts a unit after those that run, and keeps it running.
   * @throws UnitStartFailed, MachineStopped
   */
  async start(spec: UnitSpec): Promise<void> {
    if (this.#closed) throw new MachineStopped(spec.name);
    this.#guardian ??= new Guardian(this.#options.recordsFolder);
    const unit = new UnitProcess(spec, this.#units.length, {
      logs: this.logs,
      logFolder: this.#options.logFolder,
      records: this.#records,
    });
    unit.on('change', state => this.emit('change', state));
    this.#units.push(unit);
    try {
      await unit.start();
    } catch (error) {
      this.#units.splice(this.#units.indexOf(unit), 1);
      throw error;
    }
  }

  states(): UnitState[] {
    return this.#units.map(unit => unit.state());
  }

  /** Stops all units, last started first, and resolves when nothing of them is left. */
  async stopAll(): Promise<void> {
    this.#closed = true;
    for (const unit of this.#units.toReversed()) await unit.stop();
    await this.#guardian?.dismiss();
    this.#guardian = undefined;
    await this.logs.close();
  }
}
