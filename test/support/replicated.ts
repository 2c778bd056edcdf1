/** A deployment with a replicated database, and what can happen to its servers. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { readRuntimeMap } from '../../src/map/map-file.ts';
import { withClient } from '../../src/operate/database/provision.ts';
import { readDatabaseRecord } from '../../src/operate/database/record.ts';
import { superuserUrl } from '../../src/operate/database/running.ts';
import { type DatabaseServer, databaseServers } from '../../src/operate/database/standing.ts';
import { existingDeployment } from '../../src/operate/deployment.ts';
import type { Site } from './deployment.ts';
import { LedgerSubject } from './ledger.ts';
import { processesOf, signalAll } from './processes.ts';
import { until } from './until.ts';
import { type Account, Witness } from './witness.ts';

export const SESSIONS = 4;

/** As `banyan status` has it, without a process for each time that it is asked. */
export async function serversOf(site: Site): Promise<DatabaseServer[]> {
  const deployment = existingDeployment(site.paths);
  return (deployment && (await databaseServers(deployment))) ?? [];
}

/** The name of the primary. */
export async function primaryOf(site: Site): Promise<string> {
  return until(
    async () =>
      (await serversOf(site)).find(({ role, state }) => role === 'primary' && state === 'running')
        ?.name,
    { what: 'there is a primary', timeoutMs: 60_000 },
  );
}

/** Waits until every server runs, and a replica acknowledges with the primary. */
export async function untilWell(site: Site, count: number): Promise<void> {
  await until(
    async () => {
      const servers = await serversOf(site);
      const isWell =
        servers.length === count &&
        servers.every(
          ({ role, state }) => state === (role === 'primary' ? 'running' : 'streaming'),
        ) &&
        servers.some(({ role }) => role === 'primary') &&
        servers.some(({ role }) => role === 'synchronous replica');
      if (!isWell) throw new Error(JSON.stringify(servers));
      return true;
    },
    { what: 'all database servers are well', timeoutMs: 120_000 },
  );
}

/** How many replication slots of that name each server has that the map names, shard by shard. */
export async function slotsNamed(site: Site, name: string): Promise<number[]> {
  const deployment = existingDeployment(site.paths)!;
  const { shards } = readRuntimeMap(site.paths.map).database;
  return Promise.all(
    shards
      .flatMap(({ members }) => members)
      .map(member =>
        withClient(superuserUrl(deployment, member, 'postgres'), async client => {
          const { rows } = await client.query<{ count: number }>(
            'select count(*)::int as count from pg_replication_slots where slot_name = $1',
            [name],
          );
          return rows[0]!.count;
        }),
      ),
  );
}

/** The process id of a server's PostgreSQL, which Patroni put into a session of its own. */
export function postgresPid(site: Site, name: string): number {
  const file = path.join(dataOf(site, name), 'postmaster.pid');
  return Number.parseInt(readFileSync(file, 'utf8'), 10);
}

/** Kills all of a server's PostgreSQL at once. */
export function killPostgres(site: Site, name: string): void {
  signalAll(postgresProcesses(site, name), 'SIGKILL');
}

/** PostgreSQL's main process and all that it has started. */
export function postgresProcesses(site: Site, name: string): number[] {
  return processesOf(dataOf(site, name)).map(({ pid }) => pid);
}

function dataOf(site: Site, name: string): string {
  const { cluster, others = [] } = readDatabaseRecord(site.paths) ?? {};
  const nodes = [cluster, ...others.map(other => other.cluster)].flatMap(each => each?.nodes ?? []);
  return path.join(nodes.find(each => each.name === name)!.folder, 'data');
}

/** Lets the witness look at a fault: it writes and reads before, through it and after. */
export async function witnessed(site: Site, fault: () => Promise<void>): Promise<Account> {
  await site.refresh();
  await site.pool().query('delete from entries');
  const subject = new LedgerSubject(site.address, site.pool(), { sessions: SESSIONS });
  const witness = new Witness(subject, { sessions: SESSIONS }).start();
  try {
    await witness.untilAcknowledged(20);
    await fault();
    await witness.untilAcknowledged(40, 60_000);
  } catch (error) {
    // Without a recount: who would be asked may be what the fault has frozen.
    await witness.stop({ recount: async () => [] });
    throw error;
  }
  // The primary may be another by now.
  await site.refresh();
  return witness.stop(new LedgerSubject(site.address, site.pool(), { sessions: SESSIONS }));
}
