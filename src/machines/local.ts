/**
 * The local machine: units as child processes of this one.
 *
 * Units are stopped by rank: what takes requests first, the database last. While anything runs a
 * guardian stands by, so that nothing outlives a supervisor that is killed.
 */
import { EventEmitter } from 'node:events';
import { BanyanError } from '../errors.ts';
import { Guardian } from './guardian.ts';
import { endLeftovers } from './leftovers.ts';
import { addressKey, ListeningSockets } from './listening-socket.ts';
import { UnitRecords } from './records.ts';
import type { EngineSupport, Machine, SocketAddress, UnitSpec, UnitState } from './unit.ts';
import { type LogLimits, UnitLogs } from './unit-log.ts';
import { UnitProcess } from './unit-process.ts';

export interface LocalMachineOptions {
  /** Where the records of running units lie. */
  recordsFolder: string;
  logFolder: string;
  logLimits: LogLimits;
  /** By the names that specs give. */
  engines: Readonly<Record<string, EngineSupport>>;
}

/** Ranks are small numbers; a rank's units are told apart by the order of their starts. */
const STARTS_PER_RANK = 1_000_000;

export class MachineStopped extends BanyanError {
  constructor(unit: string) {
    super('MACHINE_STOPPED', {
      what: 'No unit is started any more: everything is being stopped',
      where: unit,
    });
  }
}

export class UnitExists extends BanyanError {
  constructor(unit: string) {
    super('UNIT_EXISTS', {
      what: 'A unit of this name runs already',
      where: unit,
      remedy: 'Stop it first; `banyan status` shows it',
    });
  }
}

export class LocalMachine extends EventEmitter<{ change: [UnitState] }> implements Machine {
  readonly logs: UnitLogs;
  readonly #options: LocalMachineOptions;
  readonly #records: UnitRecords;
  readonly #units: UnitProcess[] = [];
  readonly #sockets = new ListeningSockets();
  #starts = 0;
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

  listen(address: SocketAddress): Promise<number> {
    return this.#sockets.open(address);
  }

  /** @throws UnitStartFailed, UnitExists, MachineStopped */
  async start(spec: UnitSpec): Promise<void> {
    if (this.#closed) throw new MachineStopped(spec.name);
    if (this.#find(spec.name)) throw new UnitExists(spec.name);
    this.#guardian ??= new Guardian(this.#options.recordsFolder);
    const engine = this.#options.engines[spec.engine];
    if (!engine) throw new Error(`no engine is called ${spec.engine}`);
    const unit = new UnitProcess(spec, {
      engine,
      order: spec.rank * STARTS_PER_RANK + this.#starts++,
      descriptors: await this.#descriptorsOf(spec),
      logs: this.logs,
      logFolder: this.#options.logFolder,
      records: this.#records,
    });
    unit.on('change', state => this.emit('change', state));
    this.#units.push(unit);
    try {
      await unit.start();
    } catch (error) {
      this.#forget(unit);
      this.#closeUnused(spec);
      throw error;
    }
  }

  async stop(name: string): Promise<void> {
    const unit = this.#find(name);
    if (!unit) return;
    await unit.stop();
    this.#forget(unit);
    this.#closeUnused(unit.spec);
  }

  async signal(name: string, signal: NodeJS.Signals): Promise<void> {
    this.#find(name)?.signal(signal);
  }

  async states(): Promise<UnitState[]> {
    return this.#units.map(unit => unit.state());
  }

  /** Stops all units and resolves when nothing of them is left. */
  async stopAll(): Promise<void> {
    this.#closed = true;
    // Whoever comes now is refused as soon as the server stops accepting, and does not wait in vain.
    this.#sockets.closeAll();
    const inOrder = this.#units.toSorted((a, b) => b.order - a.order);
    for (const unit of inOrder) await unit.stop();
    await this.#guardian?.dismiss();
    this.#guardian = undefined;
    await this.logs.close();
  }

  #find(name: string): UnitProcess | undefined {
    return this.#units.find(unit => unit.spec.name === name);
  }

  #forget(unit: UnitProcess): void {
    const index = this.#units.indexOf(unit);
    // One that is stopped while it starts is forgotten by both, the start that failed and the stop.
    if (index >= 0) this.#units.splice(index, 1);
  }

  /** On a socket that nobody serves any more connections would wait for ever. */
  #closeUnused({ sockets = [] }: UnitSpec): void {
    const used = new Set(this.#units.flatMap(unit => unit.spec.sockets ?? []).map(addressKey));
    for (const address of sockets) if (!used.has(addressKey(address))) this.#sockets.close(address);
  }

  async #descriptorsOf({ sockets = [] }: UnitSpec): Promise<number[]> {
    const descriptors: number[] = [];
    for (const address of sockets) {
      await this.listen(address);
      const descriptor = this.#sockets.descriptor(address);
      if (descriptor !== undefined) descriptors.push(descriptor);
    }
    return descriptors;
  }
}
