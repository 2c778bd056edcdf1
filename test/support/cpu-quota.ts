/** A slice of the processor for some processes: a control group of version 1 or 2, whichever is here. */
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { hasCode } from '../../src/errors.ts';

const VERSION_1 = '/sys/fs/cgroup/cpu';
const VERSION_2 = '/sys/fs/cgroup';

/** Half of the usual: a slice is spread more evenly over time, and still many ticks of the clock long. */
const PERIOD_US = 50_000;
const TRIES = 100;

let groups = 0;

export class CpuQuota {
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /**
   * @param processors a part of one: 0.5
   * @throws where this machine has no such groups, or does not let us make one
   */
  static of(processors: number): CpuQuota {
    const name = `banyan-test-${process.pid}-${groups++}`;
    const quota = Math.round(processors * PERIOD_US);
    if (existsSync(path.join(VERSION_1, 'cpu.cfs_quota_us'))) {
      const folder = path.join(VERSION_1, name);
      mkdirSync(folder);
      writeFileSync(path.join(folder, 'cpu.cfs_period_us'), String(PERIOD_US));
      writeFileSync(path.join(folder, 'cpu.cfs_quota_us'), String(quota));
      return new CpuQuota(folder);
    }
    writeFileSync(path.join(VERSION_2, 'cgroup.subtree_control'), '+cpu');
    const folder = path.join(VERSION_2, name);
    mkdirSync(folder);
    writeFileSync(path.join(folder, 'cpu.max'), `${quota} ${PERIOD_US}`);
    return new CpuQuota(folder);
  }

  /** All threads of it. */
  add(pid: number): void {
    writeFileSync(path.join(this.#folder, 'cgroup.procs'), String(pid));
  }

  /** Gives the processes back to the group above, and is gone. */
  release(): void {
    const above = path.join(path.dirname(this.#folder), 'cgroup.procs');
    for (let left = TRIES; ; left--) {
      const pids =
        readFileSync(path.join(this.#folder, 'cgroup.procs'), 'utf8').match(/\d+/g) ?? [];
      try {
        for (const pid of pids) writeFileSync(above, pid);
        rmdirSync(this.#folder);
        return;
      } catch (error) {
        // One of them has ended meanwhile, or had a child.
        if (!hasCode(error, 'ESRCH', 'EBUSY') || left === 0) throw error;
      }
    }
  }
}
