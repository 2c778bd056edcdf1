/**
 * Where a replicated database lives on this machine, and how its parts are made ready and started.
 *
 *     cluster/
 *       backup/        pgBackRest's configuration, and the script that archives the log
 *       kept/          what a restore put aside: a data folder for each node
 *       ca/            the authority that signs the nodes' certificates; the supervisor's alone
 *       etcd-1/        certificate and data of a member of etcd
 *       postgres-2/    certificate, Patroni's file and data of a node
 *
 * Under root everything but `ca` belongs to an ordinary account, since PostgreSQL refuses root. Where
 * that account cannot come by, it all lies in `/var/lib/banyan`, and `cluster` is a link.
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chown, mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { deriveKeyFrom } from '../../app/environment.ts';
import { isRoot, SYSTEM_FOLDER, settleFolder, unprivilegedAccount } from '../../engines/account.ts';
import { type EtcdMember, etcdUnit, findEtcd } from '../../engines/etcd.ts';
import {
  type Authority,
  type CertificateFiles,
  prepareAuthority,
  prepareNodeCertificate,
} from '../../engines/node-certificate.ts';
import { findPatroni, patroniFileOf, patroniUnit } from '../../engines/patroni.ts';
import { PatroniApi } from '../../engines/patroni-api.ts';
import {
  type ClusterPasswords,
  type ClusterSettings,
  type DatabaseNode,
  dataFolderOf,
  renderNodeConfig,
} from '../../engines/patroni-config.ts';
import { launcherFileOf, PATRONI_LAUNCHER } from '../../engines/patroni-guard.ts';
import { SUPERUSER } from '../../engines/postgres.ts';
import { findSystemPostgres, type SystemPostgres } from '../../engines/system-postgres.ts';
import { freePort, isPortFree } from '../../machines/free-port.ts';
import type { Account, Machine } from '../../machines/unit.ts';
import { writeFileAtomic } from '../../map/atomic-file.ts';
import { Repository } from '../backup/repository.ts';
import type { Deployment } from '../deployment.ts';
import type { ClusterRecord } from './record.ts';

const LOOPBACK = '127.0.0.1';

/** The programs that a replicated database needs. @throws SystemPostgresMissing, PatroniMissing, EtcdMissing */
export function findClusterPrograms(): SystemPostgres {
  const postgres = findSystemPostgres();
  findPatroni();
  findEtcd();
  return postgres;
}

export class ClusterHome {
  readonly folder: string;
  readonly postgres: SystemPostgres;
  readonly passwords: ClusterPasswords;
  /** Whom everything in it belongs to; undefined: this process's own. */
  readonly account: Account | undefined;
  readonly #deployment: Deployment;
  readonly #authority: Authority;

  private constructor(
    deployment: Deployment,
    folder: string,
    postgres: SystemPostgres,
    account: Account | undefined,
    passwords: ClusterPasswords,
    authority: Authority,
  ) {
    this.#deployment = deployment;
    this.folder = folder;
    this.postgres = postgres;
    this.account = account;
    this.passwords = passwords;
    this.#authority = authority;
  }

  /** @throws SystemPostgresMissing, PatroniMissing, EtcdMissing, NoAccount */
  static async open(deployment: Deployment): Promise<ClusterHome> {
    const { paths, id, secrets } = deployment;
    const postgres = findClusterPrograms();
    const account = isRoot() ? unprivilegedAccount() : undefined;
    const folder = await settleFolder(
      paths.cluster,
      path.join(SYSTEM_FOLDER, id, 'cluster'),
      account,
    );
    const derived = (purpose: string) =>
      deriveKeyFrom(secrets.application, purpose, 24).toString('base64url');
    const passwords = {
      superuser: secrets.superuserPassword,
      replication: derived('postgres-replication'),
      rest: derived('patroni-rest'),
    };
    const authority = await prepareAuthority(path.join(folder, 'ca'));
    return new ClusterHome(deployment, folder, postgres, account, passwords, authority);
  }

  /** A member of etcd that is not there yet. */
  async newEtcd(name: string): Promise<EtcdMember> {
    const [clientPort, peerPort] = await freePorts(2);
    return {
      name,
      host: LOOPBACK,
      clientPort: clientPort!,
      peerPort: peerPort!,
      dataFolder: path.join(this.folder, name, 'data'),
    };
  }

  /** A node that is not there yet. */
  async newNode(name: string): Promise<DatabaseNode> {
    const [port, restPort] = await freePorts(2);
    return { name, host: LOOPBACK, port: port!, restPort: restPort!, folder: this.#folderOf(name) };
  }

  async startEtcd(machine: Machine, record: ClusterRecord, member: EtcdMember): Promise<void> {
    const certificate = await this.#certificate(member.name, member.host);
    await this.#own(member.dataFolder);
    await machine.start(
      etcdUnit({
        member,
        members: record.etcd,
        certificate,
        token: record.scope,
        account: this.account,
      }),
    );
  }

  /** Starts a node and waits until its PostgreSQL answers; one without data copies the primary's first. */
  async startNode(machine: Machine, record: ClusterRecord, node: DatabaseNode): Promise<void> {
    const certificate = await this.writeNodeFile(record, node);
    const copies =
      !hasData(node) && (record.nodes[0]?.name !== node.name || record.nodes.some(hasData));
    await machine.start(patroniUnit({ node, certificate, account: this.account, copies }));
  }

  /** Patroni's files; a running one reads its configuration again on SIGHUP. */
  async writeNodeFile(record: ClusterRecord, node: DatabaseNode): Promise<CertificateFiles> {
    const certificate = await this.#certificate(node.name, node.host);
    await this.#own(node.folder);
    const file = patroniFileOf(node);
    const text = renderNodeConfig({
      node,
      agreement: record.etcd.map(({ host, clientPort }) => `${host}:${clientPort}`),
      scope: record.scope,
      certificate,
      passwords: this.passwords,
      superuser: SUPERUSER,
      binFolder: this.postgres.bin,
      nodeHosts: record.nodes.map(({ host }) => host),
      settings: record.settings,
      archiveCommand: (await this.repository(record.settings))?.archiveCommand,
    });
    for (const [name, content] of [
      [file, text],
      [launcherFileOf(node.folder), PATRONI_LAUNCHER],
    ] as const) {
      await writeFileAtomic(name, content);
      if (this.account) await chown(name, this.account.uid, this.account.gid);
    }
    return certificate;
  }

  /** Where backups go; undefined when none are made. @throws BackrestMissing, RepositoryUnusable */
  async repository({ backup }: ClusterSettings): Promise<Repository | undefined> {
    return backup && Repository.open(this.#deployment, this, backup);
  }

  /** Patroni's interface on a node. */
  async api(node: DatabaseNode): Promise<PatroniApi> {
    return new PatroniApi(node, await this.#certificate(node.name, node.host), this.passwords);
  }

  /** Deletes what a node or a member of etcd, which has been stopped, had. */
  async forget(name: string): Promise<void> {
    await rm(this.#folderOf(name), { recursive: true, force: true });
  }

  #folderOf(name: string): string {
    return path.join(this.folder, name);
  }

  #certificate(name: string, host: string): Promise<CertificateFiles> {
    return prepareNodeCertificate({
      authority: this.#authority,
      folder: path.join(this.#folderOf(name), 'tls'),
      name,
      host,
      account: this.account,
    });
  }

  /** A folder for the account alone. The one above it has to be there. */
  async #own(folder: string): Promise<void> {
    for (const each of [path.dirname(folder), folder]) {
      if (each === this.folder) continue;
      await mkdir(each, { recursive: true, mode: 0o700 });
      if (this.account) await chown(each, this.account.uid, this.account.gid);
    }
  }
}

/** A data folder that a server could start on lies there. */
export function hasData(node: DatabaseNode): boolean {
  return existsSync(path.join(dataFolderOf(node), 'PG_VERSION'));
}

/** What the cluster's record is made of when there is none yet. */
export async function newClusterRecord(
  home: ClusterHome,
  deployment: Deployment,
  names: { etcd: string[]; nodes: string[] },
  settings: ClusterSettings,
): Promise<ClusterRecord> {
  return {
    scope: deployment.id,
    etcd: await Promise.all(names.etcd.map(name => home.newEtcd(name))),
    nodes: await Promise.all(names.nodes.map(name => home.newNode(name))),
    settings,
  };
}

/** The same of a further shard, whose servers agree through the etcd of the first. */
export async function furtherClusterRecord(
  home: ClusterHome,
  { scope, etcd, settings }: ClusterRecord,
  shard: number,
  nodes: string[],
): Promise<ClusterRecord> {
  return {
    // What a shard of that number, which was given up, left in etcd must not be taken for this one's.
    scope: `${scope}-${shard + 1}-${randomBytes(3).toString('hex')}`,
    etcd,
    nodes: await Promise.all(nodes.map(name => home.newNode(name))),
    settings,
  };
}

/**
 * The record with other ports where one was taken by another program while the cluster was down. etcd's peers know
 * each other by their ports, so those stay.
 */
export async function withFreePorts(record: ClusterRecord): Promise<ClusterRecord> {
  return withFreeNodePorts({
    ...record,
    etcd: await Promise.all(
      record.etcd.map(async each => ({
        ...each,
        clientPort: await freeOr(each.host, each.clientPort),
      })),
    ),
  });
}

/** The same without etcd's, which runs. */
export async function withFreeNodePorts(record: ClusterRecord): Promise<ClusterRecord> {
  return {
    ...record,
    nodes: await Promise.all(
      record.nodes.map(async each => ({
        ...each,
        port: await freeOr(each.host, each.port),
        restPort: await freeOr(each.host, each.restPort),
      })),
    ),
  };
}

async function freeOr(host: string, port: number): Promise<number> {
  return (await isPortFree(port, host)) ? port : freePort(host);
}

/** Distinct ones. */
async function freePorts(count: number): Promise<number[]> {
  const ports = new Set<number>();
  while (ports.size < count) ports.add(await freePort(LOOPBACK));
  return [...ports];
}
