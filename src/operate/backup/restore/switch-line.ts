/**
 * One set of data folders takes the place of another: the switch of a restore, and of taking one back.
 *
 * Holds true here:
 * - Every step may be done twice: what was cut off in the middle is finished by doing it again, or taken back.
 * - Nothing is deleted that was the database before: its folders are put aside, whole.
 * - The cluster goes on under another name in etcd, since what is agreed there (which database, who leads, its
 *   history) is of the one that was put aside. The old name keeps all that, for the way back.
 */
import { existsSync } from 'node:fs';
import { chown, mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { dataFolderOf } from '../../../engines/patroni-config.ts';
import type { Machine } from '../../../machines/unit.ts';
import { primaryOf } from '../../database/cluster.ts';
import type { ClusterHome } from '../../database/cluster-home.ts';
import { provision } from '../../database/provision.ts';
import { type ClusterRecord, writeDatabaseRecord } from '../../database/record.ts';
import type { Deployment } from '../../deployment.ts';

/** Where a restored database is made ready. */
export function preparedFolder(home: ClusterHome): string {
  return path.join(home.folder, 'restore', 'data');
}

/** Where the data folders that were put aside lie, by the names of their servers. */
export function keptFolder(home: ClusterHome): string {
  return path.join(home.folder, 'kept');
}

/** Replicas first: when the primary goes, nobody is to take over. */
export async function stopNodes(
  machine: Machine,
  { nodes }: ClusterRecord,
  primary: string | undefined,
): Promise<void> {
  const inOrder = nodes.toSorted((a, b) => Number(a.name === primary) - Number(b.name === primary));
  for (const { name } of inOrder) await machine.stop(name);
}

/** Puts the present folders aside and the prepared one into the first server's place. */
export async function swapFolders(
  deployment: Deployment,
  home: ClusterHome,
  before: ClusterRecord,
  after: ClusterRecord,
): Promise<void> {
  const kept = keptFolder(home);
  const prepared = preparedFolder(home);
  await mkdir(kept, { recursive: true, mode: 0o711 });
  for (const node of before.nodes)
    await moveUnlessDone(dataFolderOf(node), path.join(kept, node.name), prepared);
  const { account } = home;
  const [first] = after.nodes;
  if (existsSync(prepared)) {
    // The server's own folder may have been lost with its data.
    await mkdir(first!.folder, { recursive: true, mode: 0o700 });
    if (account) await chown(first!.folder, account.uid, account.gid);
    await rename(prepared, dataFolderOf(first!));
  }
  await writeDatabaseRecord(deployment, { serving: 'cluster', cluster: after });
}

/** The opposite: what was put aside comes back, and what took its place is deleted. */
export async function swapBack(
  deployment: Deployment,
  home: ClusterHome,
  before: ClusterRecord,
): Promise<void> {
  for (const node of before.nodes) {
    const aside = path.join(keptFolder(home), node.name);
    if (!existsSync(aside)) continue;
    await rm(dataFolderOf(node), { recursive: true, force: true });
    await rename(aside, dataFolderOf(node));
  }
  await rm(path.dirname(preparedFolder(home)), { recursive: true, force: true });
  await writeDatabaseRecord(deployment, { serving: 'cluster', cluster: before });
}

/** While the prepared folder is still there, what lies in the servers' places is the old. */
async function moveUnlessDone(from: string, to: string, prepared: string): Promise<void> {
  if (!existsSync(from) || existsSync(to) || !existsSync(prepared)) return;
  await rename(from, to);
}

/** Starts the first server, which has the rows, and when it takes writes the others, which copy them. */
export async function startRestored(
  machine: Machine,
  deployment: Deployment,
  home: ClusterHome,
  record: ClusterRecord,
): Promise<void> {
  const [first, ...others] = record.nodes;
  await machine.stop(first!.name);
  await home.startNode(machine, record, first!);
  await primaryOf(home, record);
  await Promise.all(
    others.map(async node => {
      await machine.stop(node.name);
      await home.startNode(machine, record, node);
    }),
  );
  await provision(deployment, await primaryOf(home, record));
}

/** Starts servers that have their data, as they were. */
export async function startAsBefore(
  machine: Machine,
  home: ClusterHome,
  record: ClusterRecord,
): Promise<void> {
  for (const { name } of record.nodes) await machine.stop(name);
  await Promise.all(record.nodes.map(node => home.startNode(machine, record, node)));
}
