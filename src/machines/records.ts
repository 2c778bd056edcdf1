/**
 * Units describe themselves on disk: one small file for each running process, in `.banyan/run/units`.
 *
 * Whoever comes after a supervisor that was killed (its guardian, or the next `banyan up`) reads from
 * these what still runs, how to stop it, and in which order. The files say what *is*; what should be
 * is the topology's business.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { ProcessIdentity } from './process-identity.ts';
import type { DetachedProcess, StopRule } from './unit.ts';

export interface UnitRecord extends ProcessIdentity {
  name: string;
  tier: string;
  /** Units are stopped from the highest to the lowest. */
  order: number;
  stop: StopRule;
  detached?: DetachedProcess;
}

export class UnitRecords {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  }

  /**
   * Synchronous on purpose: the moment between the start of a process and its record, in which a killed
   * supervisor would leave a process that nobody knows of, is as short as can be.
   */
  save(record: UnitRecord): void {
    const file = this.#fileOf(record.name);
    writeFileSync(`${file}.tmp`, JSON.stringify(record), { mode: 0o600 });
    renameSync(`${file}.tmp`, file);
  }

  remove(name: string): void {
    rmSync(this.#fileOf(name), { force: true });
  }

  /** In the order in which they are to be stopped. A file that is no record is left out. */
  all(): UnitRecord[] {
    return readdirSync(this.#folder)
      .filter(name => name.endsWith('.json'))
      .flatMap(name => {
        try {
          return [JSON.parse(readFileSync(path.join(this.#folder, name), 'utf8')) as UnitRecord];
        } catch {
          return [];
        }
      })
      .sort((a, b) => b.order - a.order);
  }

  #fileOf(name: string): string {
    return path.join(this.#folder, `${name}.json`);
  }
}
