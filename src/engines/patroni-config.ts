/**
 * Renders Patroni's configuration. Pure. It is written as JSON, which is YAML too.
 *
 * Two parts: what each node has of its own (addresses, folders, passwords), and what all agree on, which is
 * kept in etcd (`clusterSettings`) and changed there with `PATCH /config`.
 */
import type { CompleteBackup } from '../topology/complete.ts';
import type { CertificateFiles } from './node-certificate.ts';

/** One PostgreSQL under Patroni. */
export interface DatabaseNode {
  /** The unit's, and its name in Patroni. */
  name: string;
  host: string;
  /** Of PostgreSQL. */
  port: number;
  /** Of Patroni's own interface. */
  restPort: number;
  /** Holds `data`, the certificates and Patroni's file. */
  folder: string;
}

export interface ClusterPasswords {
  superuser: string;
  replication: string;
  /** Of Patroni's own interface. */
  rest: string;
}

/** What all nodes have in common, and what changes it while they run. */
export interface ClusterSettings {
  memoryMb: number;
  maxConnections: number;
  /**
   * A commit waits until a replica has it too, and when there is no replica it waits for one. Otherwise the
   * primary goes on alone.
   */
  strict: boolean;
  /** The user's own, from `database.settings`. */
  extra: Record<string, string | number | boolean>;
  /** Undefined: no backups are made. */
  backup?: CompleteBackup;
}

export const REPLICATION_ROLE = 'banyan_replication';
const REST_USER = 'banyan';

/**
 * A primary that cannot renew its lock for this long has lost it: the time after which a machine that
 * vanished is replaced. Patroni allows no less than 20. In seconds, as all of these.
 */
const TTL = 20;
const LOOP_WAIT = 1;
const RETRY_TIMEOUT = 3;

/** The log that is kept for a replica that is away; beyond it, the replica is made anew. */
const SLOT_KEEPS = '4GB';

/**
 * A replica that froze is noticed after this: until then commits wait for it. PostgreSQL's default is a
 * minute.
 */
const WAL_TIMEOUT = '5s';

/**
 * After a failover commits wait until the first replica has found the new primary, which makes its slot only a
 * moment after it was promoted. PostgreSQL's default is 5 s, which were 3 of the 5 that nobody could write.
 */
const RECONNECT = '200ms';

const ARCHIVE_TIMEOUT = '60s';
/**
 * A new primary still has what the last one did not come to archive: see operate/backup/keeper.ts. And who asks
 * what became of a transaction reads it (app/database/outcome.ts).
 */
const KEPT_LOG = '256MB';

export interface NodeConfigOptions {
  node: DatabaseNode;
  /** Of etcd: `host:port`. */
  agreement: readonly string[];
  /** Names the cluster in etcd. */
  scope: string;
  certificate: CertificateFiles;
  passwords: ClusterPasswords;
  superuser: string;
  binFolder: string;
  /** Hosts of all nodes, which may copy from each other. */
  nodeHosts: readonly string[];
  /** For the first start of the first node. */
  settings: ClusterSettings;
  /** What archives the log; undefined: nothing does. */
  archiveCommand: string | undefined;
}

/** One node's file, whole. */
export function renderNodeConfig(options: NodeConfigOptions): string {
  const { node, agreement, scope, certificate, passwords, superuser, binFolder } = options;
  const { ca, certificate: cert, key } = certificate;
  const tls = { sslmode: 'verify-ca', sslrootcert: ca };
  const config = {
    scope,
    namespace: '/banyan/',
    name: node.name,
    log: {
      level: 'INFO',
      // Once a second: "no action. I am (postgres-2), a secondary, and following a leader".
      loggers: { 'patroni.__main__': 'WARNING' },
    },
    restapi: {
      listen: address(node.host, node.restPort),
      connect_address: address(node.host, node.restPort),
      certfile: cert,
      keyfile: key,
      cafile: ca,
      verify_client: 'required',
      authentication: { username: REST_USER, password: passwords.rest },
    },
    ctl: { cacert: ca, certfile: cert, keyfile: key },
    etcd3: { hosts: agreement, protocol: 'https', cacert: ca, cert, key },
    bootstrap: {
      dcs: clusterSettings(options.settings, options.archiveCommand),
      initdb: [
        { encoding: 'UTF8' },
        // Sorts by code point, as rung 1 does: rows keep their order in a move from one to the other.
        { locale: 'C.UTF-8' },
        'data-checksums',
      ],
    },
    postgresql: {
      listen: address(node.host, node.port),
      connect_address: address(node.host, node.port),
      data_dir: dataFolderOf(node),
      bin_dir: binFolder,
      pgpass: `${node.folder}/pgpass`,
      authentication: {
        superuser: { username: superuser, password: passwords.superuser, ...tls },
        replication: { username: REPLICATION_ROLE, password: passwords.replication, ...tls },
      },
      parameters: {
        // No Unix socket: its path could be longer than a socket may have.
        unix_socket_directories: '',
        ssl: 'on',
        ssl_cert_file: cert,
        ssl_key_file: key,
        ssl_ca_file: ca,
        cluster_name: node.name,
      },
      pg_hba: hostRules(options.nodeHosts, superuser),
      create_replica_methods: ['basebackup'],
      // Else it waits for the next checkpoint, minutes away.
      basebackup: [{ checkpoint: 'fast' }],
    },
  };
  return `${JSON.stringify(config, null, 2)}\n`;
}

/** Where a node's rows are. */
export function dataFolderOf({ folder }: Pick<DatabaseNode, 'folder'>): string {
  return `${folder}/data`;
}

/** For `PATCH /config`, and for the first start. */
export function clusterSettings(settings: ClusterSettings, archiveCommand: string | undefined) {
  const { memoryMb, maxConnections, strict, extra } = settings;
  return {
    ttl: TTL,
    loop_wait: LOOP_WAIT,
    retry_timeout: RETRY_TIMEOUT,
    // Another takes over at once: a restart after a crash may take longer than users wait.
    primary_start_timeout: 0,
    synchronous_mode: true,
    synchronous_mode_strict: strict,
    // Slots of moves by logical replication come and go without Patroni.
    ignore_slots: [{ type: 'logical', plugin: 'pgoutput' }],
    postgresql: {
      use_pg_rewind: true,
      use_slots: true,
      remove_data_directory_on_rewind_failure: true,
      remove_data_directory_on_diverged_timelines: true,
      parameters: {
        max_connections: maxConnections,
        max_prepared_transactions: maxConnections,
        wal_level: 'logical',
        wal_log_hints: 'on',
        max_wal_senders: 16,
        max_replication_slots: 16,
        max_worker_processes: 16,
        track_commit_timestamp: 'on',
        max_slot_wal_keep_size: SLOT_KEEPS,
        wal_sender_timeout: WAL_TIMEOUT,
        wal_receiver_timeout: WAL_TIMEOUT,
        wal_retrieve_retry_interval: RECONNECT,
        wal_keep_size: KEPT_LOG,
        hot_standby: 'on',
        // Else rows that a read on a replica still needs are cleaned away on the primary.
        hot_standby_feedback: 'on',
        // A long read on a replica holds up what all others there wait for no longer than this.
        max_standby_streaming_delay: '3s',
        archive_mode: 'on',
        archive_command: archiveCommand ?? 'true',
        ...(archiveCommand
          ? // A log that nobody fills is archived after this: when all servers are lost, no more is.
            { archive_timeout: ARCHIVE_TIMEOUT }
          : {}),
        password_encryption: 'scram-sha-256',
        shared_buffers: megabytes(Math.max(32, memoryMb / 2)),
        effective_cache_size: megabytes(memoryMb * 2),
        maintenance_work_mem: megabytes(Math.min(512, Math.max(32, memoryMb / 8))),
        work_mem: megabytes(Math.min(32, Math.max(4, memoryMb / maxConnections))),
        max_wal_size: '1GB',
        shared_preload_libraries: 'pg_stat_statements',
        track_io_timing: 'on',
        log_line_prefix: '%m [%p] ',
        log_timezone: 'UTC',
        timezone: 'UTC',
        log_lock_waits: 'on',
        log_checkpoints: 'off',
        ...extra,
      },
    },
  };
}

/** `user:password` for Patroni's own interface. */
export function restCredentials(passwords: ClusterPasswords): string {
  return `${REST_USER}:${passwords.rest}`;
}

/** Applications come from this machine; nodes from theirs, encrypted. Everyone needs a password. */
function hostRules(nodeHosts: readonly string[], superuser: string): string[] {
  const others = [...new Set(nodeHosts)].flatMap(host => {
    const range = `${host}/${host.includes(':') ? 128 : 32}`;
    return [
      `hostssl replication ${REPLICATION_ROLE} ${range} scram-sha-256`,
      `hostssl all ${superuser} ${range} scram-sha-256`,
    ];
  });
  return [
    ...others,
    'host all all 127.0.0.1/32 scram-sha-256',
    'host all all ::1/128 scram-sha-256',
  ];
}

function address(host: string, port: number): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}

function megabytes(amount: number): string {
  return `${Math.floor(amount)}MB`;
}
