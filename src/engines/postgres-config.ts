/**
 * Renders PostgreSQL's configuration files. Pure.
 *
 * Whatever a later rung would need a restart for is on from the first day: climbing must not cost
 * the restart. Settings changed with `ALTER SYSTEM` win over this file, as they do everywhere.
 */

export interface PostgresSettings {
  host: string;
  port: number;
  /** What sizes follow from, in megabytes. */
  memoryMb: number;
  maxConnections: number;
  /** The user's own, from `database.settings`. */
  extra: Record<string, string | number | boolean>;
}

type Value = string | number | boolean;

/** `postgresql.conf`, whole. */
export function renderPostgresConf(settings: PostgresSettings): string {
  const { host, port, memoryMb, maxConnections, extra } = settings;
  const sections: [comment: string, values: Record<string, Value>][] = [
    [
      'Where it listens. No Unix socket: its path could be longer than a socket may have.',
      {
        listen_addresses: host,
        port,
        unix_socket_directories: '',
        max_connections: maxConnections,
        password_encryption: 'scram-sha-256',
      },
    ],
    [
      'Durability: a commit that returned is on the disk.',
      {
        fsync: true,
        full_page_writes: true,
        synchronous_commit: 'on',
      },
    ],
    [
      'Memory.',
      {
        shared_buffers: megabytes(Math.max(32, memoryMb / 2)),
        effective_cache_size: megabytes(memoryMb * 2),
        maintenance_work_mem: megabytes(Math.min(512, Math.max(32, memoryMb / 8))),
        work_mem: megabytes(Math.min(32, Math.max(4, memoryMb / maxConnections))),
        max_wal_size: '1GB',
      },
    ],
    [
      'For later rungs, which would otherwise need a restart: replicas, moves by logical replication,',
      {
        wal_level: 'logical',
        max_wal_senders: 16,
        max_replication_slots: 16,
        max_worker_processes: 16,
        wal_log_hints: true,
        max_slot_wal_keep_size: '4GB',
      },
    ],
    ['transactions across shards,', { max_prepared_transactions: maxConnections }],
    [
      'and a backup from the log; until one is set up, segments are recycled as without it.',
      {
        archive_mode: true,
        archive_command: 'true',
      },
    ],
    [
      'What the database is busy with.',
      {
        shared_preload_libraries: 'pg_stat_statements',
        track_io_timing: true,
        track_commit_timestamp: true,
        log_line_prefix: '%m [%p] ',
        log_timezone: 'UTC',
        timezone: 'UTC',
        log_lock_waits: true,
        log_checkpoints: false,
      },
    ],
    ['From `database.settings` in the topology.', extra],
  ];
  const body = sections
    .filter(([, values]) => Object.keys(values).length > 0)
    .map(([comment, values]) => {
      const lines = Object.entries(values).map(([name, value]) => `${name} = ${render(value)}`);
      return [`# ${comment}`, ...lines].join('\n');
    });
  return `# Written by Banyan at every start. Change \`database.settings\` in banyan.config.ts instead.\n\n${body.join('\n\n')}\n`;
}

/** `pg_hba.conf`: everyone needs a password, and nobody comes from outside. */
export function renderHba(): string {
  return `# Written by Banyan at every start.
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128      scram-sha-256
`;
}

function render(value: Value): string {
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  if (typeof value === 'number') return String(value);
  return `'${value.replaceAll("'", "''")}'`;
}

function megabytes(amount: number): string {
  return `${Math.floor(amount)}MB`;
}
