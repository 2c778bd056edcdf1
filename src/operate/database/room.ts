/** Whether the servers of a replicated database have room on this machine, before anything is touched. */
import { existsSync } from 'node:fs';
import { readFile, statfs } from 'node:fs/promises';
import path from 'node:path';
import type { ClusterSettings } from '../../engines/patroni-config.ts';
import { BanyanError } from '../../errors.ts';

/** A server without rows: its first files and log segments. */
const EMPTY_NODE_MB = 200;
/** Patroni, and PostgreSQL's own besides its buffers. */
const NODE_OVERHEAD_MB = 110;

export class NoRoom extends BanyanError {
  constructor(what: string, where: string, freeMb: number, neededMb: number) {
    super('NO_ROOM', {
      what: `There is not enough ${what} for the database servers: ${neededMb} MB are needed, and ${freeMb} MB are free`,
      where,
      remedy:
        what === 'memory'
          ? 'Nothing was changed. Set `database.memoryMb` to a smaller number, use fewer replicas, or a larger machine'
          : 'Nothing was changed. Free some space (`df -h` shows where it went), or use fewer replicas',
    });
  }
}

/**
 * @param nodes how many are started
 * @throws NoRoom
 */
export async function requireMemory(nodes: number, { memoryMb }: ClusterSettings): Promise<void> {
  const neededMb = Math.ceil(nodes * (memoryMb / 2 + NODE_OVERHEAD_MB));
  const file = '/proc/meminfo';
  if (nodes === 0 || !existsSync(file)) return;
  const available = /^MemAvailable:\s+(\d+) kB/m.exec(await readFile(file, 'utf8'))?.[1];
  const freeMb = Math.floor(Number(available) / 1024);
  if (freeMb < neededMb) throw new NoRoom('memory', 'this machine', freeMb, neededMb);
}

/**
 * @param sizeMb of the rows that each of them copies
 * @throws NoRoom
 */
export async function requireDisk(folder: string, nodes: number, sizeMb: number): Promise<void> {
  const neededMb = nodes * (sizeMb + EMPTY_NODE_MB);
  const { bavail, bsize } = await statfs(folder);
  const freeMb = Math.floor((bavail * bsize) / 1024 / 1024);
  if (freeMb < neededMb) throw new NoRoom('disk space', path.resolve(folder), freeMb, neededMb);
}
