/**
 * A replicated database whose servers are on machines of their own (`network.ts`): Patroni, PostgreSQL and etcd as
 * Banyan configures them, with a member of etcd on machines beside the servers'.
 */
import { randomBytes } from 'node:crypto';
import { chmod, chown, mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import { createPool, type Pool } from '../../src/app/database/pool.ts';
import { unprivilegedAccount } from '../../src/engines/account.ts';
import { ENGINES } from '../../src/engines/engines.ts';
import { type EtcdMember, etcdUnit } from '../../src/engines/etcd.ts';
import {
  type CertificateFiles,
  prepareAuthority,
  prepareNodeCertificate,
} from '../../src/engines/node-certificate.ts';
import { askNode } from '../../src/engines/node-client.ts';
import { patroniFileOf, patroniUnit, restUrl } from '../../src/engines/patroni.ts';
import { type DatabaseNode, renderNodeConfig } from '../../src/engines/patroni-config.ts';
import { launcherFileOf, PATRONI_LAUNCHER } from '../../src/engines/patroni-guard.ts';
import { SUPERUSER } from '../../src/engines/postgres.ts';
import { findSystemPostgres } from '../../src/engines/system-postgres.ts';
import { LocalMachine } from '../../src/machines/local.ts';
import type { UnitSpec } from '../../src/machines/unit.ts';
import { publishRuntimeMap } from '../../src/map/map-file.ts';
import { temporaryFolder } from './deployment.ts';
import { Network, type NetworkMachine } from './network.ts';
import { compileOwnClock, withOwnClock } from './own-clock.ts';
import { until } from './until.ts';
import type { Subject } from './witness.ts';

/** Each machine has its own network, so the ports can be the usual ones. */
const PORTS = { postgres: 5432, rest: 8008, client: 2379, peer: 2380 };
const SETTINGS = { memoryMb: 64, maxConnections: 50, strict: true, extra: {} };
const ETCD = 3;
const folderMode = 0o755;
const secret = () => randomBytes(12).toString('hex');

export interface SpreadOptions {
  /** `setClock` works. */
  ownClocks?: boolean;
}

export class SpreadCluster {
  readonly network: Network;
  readonly nodes: DatabaseNode[];
  readonly #folder = temporaryFolder();
  readonly #machine: LocalMachine;
  readonly #passwords = { superuser: secret(), replication: secret(), rest: secret() };
  readonly #certificates = new Map<string, CertificateFiles>();
  readonly #pools: pg.Pool[] = [];

  private constructor(servers: number) {
    this.network = Network.create(servers + ETCD);
    this.nodes = this.network.machines.slice(0, servers).map(({ address }, i) => ({
      name: `database-${i + 1}`,
      host: address,
      port: PORTS.postgres,
      restPort: PORTS.rest,
      folder: path.join(this.#folder, `database-${i + 1}`),
    }));
    this.#machine = new LocalMachine({
      recordsFolder: path.join(this.#folder, 'records'),
      logFolder: path.join(this.#folder, 'logs'),
      logLimits: { maxFileMb: 1, keepFiles: 1 },
      engines: ENGINES,
    });
  }

  /**
   * What time it is on a server's machine, from now on: `3600`, in seconds, is an hour later than here. Its
   * monotonic clock goes on as it did, as on a machine whose clock is set. Within a second it is so.
   */
  async setClock({ folder }: DatabaseNode, offset: number): Promise<void> {
    await writeFile(path.join(folder, 'clock'), `${offset}\n`);
  }

  /** How far a server's clock is before ours, in seconds. */
  async clockOf(node: DatabaseNode): Promise<number> {
    const seconds = await this.#ask(
      node,
      'select extract(epoch from clock_timestamp())::float8 as it',
    );
    return Number(seconds) - Date.now() / 1_000;
  }

  static async start(servers: number, options: SpreadOptions = {}): Promise<SpreadCluster> {
    const cluster = new SpreadCluster(servers);
    try {
      await cluster.#start(options);
      return cluster;
    } catch (error) {
      await cluster.remove();
      throw error;
    }
  }

  /** Where a server runs. */
  machineOf(node: DatabaseNode): NetworkMachine {
    return this.network.machines[this.nodes.indexOf(node)]!;
  }

  /** Where etcd's members run. */
  get agreement(): readonly NetworkMachine[] {
    return this.network.machines.slice(this.nodes.length);
  }

  /** Who takes writes, by its own word. */
  async primary(): Promise<DatabaseNode> {
    return until(
      async () => {
        for (const node of this.nodes) {
          const isReplica = await this.#ask(node, 'select pg_is_in_recovery() as it').catch(
            () => true,
          );
          if (!isReplica) return node;
        }
        return undefined;
      },
      { what: 'there is a primary', timeoutMs: 60_000 },
    );
  }

  /** Waits until all other servers follow the primary. */
  async untilWell(): Promise<void> {
    await until(
      async () => {
        const following = await this.#ask(
          await this.primary(),
          `select count(*)::int as it from pg_stat_replication where state = 'streaming'`,
        );
        return following === this.nodes.length - 1;
      },
      { what: 'all servers follow the primary', timeoutMs: 120_000 },
    );
  }

  /** When a server's Patroni last heard from etcd, in seconds by its own count: later with each of its rounds. */
  async lastRound(node: DatabaseNode): Promise<number> {
    const url = `${restUrl(node)}/patroni`;
    const { body } = await askNode(url, this.#certificates.get(node.name)!);
    return (body as { dcs_last_seen: number }).dcs_last_seen;
  }

  /** A pool as an application has it, which follows a map of all servers. */
  async pool(): Promise<Pool> {
    const mapFile = path.join(this.#folder, 'map.json');
    await publishRuntimeMap(mapFile, {
      deployment: 'test',
      dataCentre: 'local',
      database: {
        name: 'postgres',
        shards: [
          {
            id: '0',
            members: this.nodes.map(({ host, port }) => ({ host, port, dataCentre: 'local' })),
          },
        ],
      },
      assets: { baseUrl: '' },
    });
    const pool = createPool({ connectionString: this.#url(this.nodes[0]!), mapFile, max: 10 });
    this.#pools.push(pool);
    return pool;
  }

  async remove(): Promise<void> {
    await Promise.all(this.#pools.map(pool => pool.end()));
    await this.#machine.stopAll();
    this.network.remove();
    await rm(this.#folder, { recursive: true });
  }

  async #start({ ownClocks = false }: SpreadOptions): Promise<void> {
    const account = unprivilegedAccount();
    const authority = await prepareAuthority(path.join(this.#folder, 'ca'));
    const own = async (folder: string) => {
      await mkdir(folder, { recursive: true, mode: folderMode });
      await chown(folder, account.uid, account.gid);
      await chmod(folder, 0o700);
    };
    const certificate = async (name: string, host: string) => {
      await own(path.join(this.#folder, name));
      const files = await prepareNodeCertificate({
        authority,
        folder: path.join(this.#folder, name, 'tls'),
        name,
        host,
        account,
      });
      this.#certificates.set(name, files);
      return files;
    };

    const members: EtcdMember[] = this.agreement.map(({ address }, i) => ({
      name: `etcd-${i + 1}`,
      host: address,
      clientPort: PORTS.client,
      peerPort: PORTS.peer,
      dataFolder: path.join(this.#folder, `etcd-${i + 1}`, 'data'),
    }));
    const etcd = members.map(async (member, i) => {
      const files = await certificate(member.name, member.host);
      await own(member.dataFolder);
      await this.#startAt(
        this.agreement[i]!,
        etcdUnit({ member, members, certificate: files, token: 'test', account }),
      );
    });
    await Promise.all(etcd);

    const library = ownClocks ? path.join(this.#folder, 'own-clock.so') : undefined;
    if (library) compileOwnClock(library);
    const scope = 'test';
    // One after the other: the first makes the database, the others copy it.
    for (const node of this.nodes) {
      const files = await certificate(node.name, node.host);
      const config = renderNodeConfig({
        node,
        agreement: members.map(({ host, clientPort }) => `${host}:${clientPort}`),
        scope,
        certificate: files,
        passwords: this.#passwords,
        superuser: SUPERUSER,
        binFolder: findSystemPostgres().bin,
        // The application is on the machine that the bridge is on.
        nodeHosts: [...this.nodes.map(({ host }) => host), this.network.gateway],
        settings: SETTINGS,
        archiveCommand: 'true',
      });
      await this.setClock(node, 0);
      for (const [file, text] of [
        [patroniFileOf(node), config],
        [launcherFileOf(node.folder), PATRONI_LAUNCHER],
      ] as const) {
        await writeFile(file, text, { mode: 0o600 });
        await chown(file, account.uid, account.gid);
      }
      const unit = patroniUnit({ node, certificate: files, account, copies: false });
      await this.#startAt(
        this.machineOf(node),
        library ? withOwnClock(unit, library, path.join(node.folder, 'clock')) : unit,
      );
    }
  }

  /** To enter a namespace takes root; the program then runs as its own account. */
  #startAt(
    machine: NetworkMachine,
    { user, command, args = [], ...spec }: UnitSpec,
  ): Promise<void> {
    const as = ['setpriv', `--reuid=${user!.uid}`, `--regid=${user!.gid}`, '--clear-groups'];
    const [first, ...rest] = machine.inside([...as, command, ...args]);
    return this.#machine.start({ ...spec, command: first!, args: rest });
  }

  #url({ host, port }: DatabaseNode): string {
    return `postgres://${SUPERUSER}:${this.#passwords.superuser}@${host}:${port}/postgres?sslmode=no-verify`;
  }

  async #ask(node: DatabaseNode, text: string): Promise<unknown> {
    const client = new pg.Client({
      connectionString: this.#url(node),
      connectionTimeoutMillis: 1_000,
      query_timeout: 1_000,
    });
    client.on('error', () => {});
    try {
      await client.connect();
      return (await client.query<{ it: unknown }>(text)).rows[0]?.it;
    } finally {
      await client.end().catch(() => {});
    }
  }
}

/** What the witness writes and reads, straight through a pool. */
export class PoolSubject implements Subject {
  readonly #pool: pg.Pool;

  constructor(pool: pg.Pool) {
    this.#pool = pool;
  }

  async prepare(): Promise<void> {
    await this.#pool.query(
      'create table entries (session int not null, value int not null, unique (session, value))',
    );
  }

  async clear(): Promise<void> {
    await this.#pool.query('delete from entries');
  }

  async write(session: number, value: number): Promise<void> {
    await this.#pool.query('insert into entries values ($1, $2)', [session, value]);
  }

  async read(session: number): Promise<number[]> {
    const { rows } = await this.#pool.query<{ value: number }>(
      'select value from entries where session = $1 order by value desc limit 50',
      [session],
    );
    return rows.map(({ value }) => value);
  }

  async recount(session: number): Promise<number[]> {
    const { rows } = await this.#pool.query<{ value: number }>(
      'select value from entries where session = $1 for update',
      [session],
    );
    return rows.map(({ value }) => value);
  }
}
