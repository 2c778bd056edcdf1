/** A topology with every question answered: what plans and operations work with. Its defaults: `defaults.ts`. */

/** The whole. */
export interface CompleteTopology {
  name: string;
  web: {
    command: string;
    port: number;
    host: string;
    ready: string;
    startTimeoutMs: number;
    drainTimeoutMs: number;
    env: Record<string, string>;
    /** Equal when their number is fixed. */
    servers: { min: number; max: number; target: number; scaleDownAfterMs: number };
    weights: number[];
    maxConcurrency: number;
    sticky: boolean;
    /** Unset: a release needs no building. */
    build?: string;
  };
  /** Unset: the one web server takes the users' requests itself. */
  balancer?: CompleteBalancer;
  database: {
    /** Set: an external PostgreSQL. Unset: the embedded one runs. */
    url?: string;
    /** `host:port` of an external database's replicas. */
    readers: string[];
    port: number;
    shards: number;
    /** By `schema.table`. */
    tables: Record<string, TablePlacement>;
    /** `schema.table.column` */
    unique: string[];
    /** By `schema.table.column`. */
    denormalize: Record<string, CopiedColumn>;
    /** None: one embedded server. */
    replicas: number;
    etcd: number;
    strict: boolean;
    migrations?: string;
    migrate?: string;
    memoryMb: number;
    maxConnections: number;
    settings: Record<string, string | number | boolean>;
    /** Unset: no backups are made. */
    backup?: CompleteBackup;
  };
  /** Unset: no cache. */
  cache?: CompleteCache;
  workers: CompleteWorkers;
  /** Unset: in PostgreSQL. */
  queue?: CompleteQueue;
  logs: { maxFileMb: number; keepFiles: number };
}

/** Plain data: it is kept in the catalog and in the journal. */
export interface CompleteWorkers {
  /** Unset: nothing says how one is started. */
  command?: string;
  env: Record<string, string>;
  startTimeoutMs: number;
  drainTimeoutMs: number;
  memoryMb?: number;
  /** `min` and `max` are equal when their number is fixed, and 0 when there are none. */
  servers: { min: number; max: number; depth: number; ageMs: number; scaleDownAfterMs: number };
}

/** Plain data, but for the URL, which is a secret and is kept nowhere. */
export interface CompleteQueue {
  servers: number;
  memoryMb: number;
  freeDiskMb: number;
  url?: string;
}

/** Plain data, but for the URL, which is a secret and is kept nowhere. */
export interface CompleteCache {
  /** Parts that the entries are spread over: 0 for none, 1 for one Redis, from 3 on a Redis Cluster. */
  servers: number;
  /** Copies of each part. */
  replicas: number;
  memoryMb: number;
  invalidators: number;
  url?: string;
}

/** Where the rows of a table are: where the hash of a column says, or all of them on every shard. */
export type TablePlacement = { kind: 'sharded'; key: string } | { kind: 'reference' };

/** What a column is a copy of. */
export interface CopiedColumn {
  /** `schema.table.column` */
  from: string;
  /** The column beside the copy that has the primary key of the row that is copied from. */
  via: string;
}

/** Plain data: it is kept in records and in the journal. */
export interface CompleteBackup {
  /** Unset: `.banyan/backups`. */
  repository?: string;
  keep: number;
  everyMs: number;
  encrypt: boolean;
  backlogMb: number;
}

export interface CompleteBalancer {
  algorithm: 'roundrobin' | 'leastconn' | 'random';
  addresses: string[];
  virtualAddress?: string;
  tls?: { port: number; certificate?: string; redirect: boolean };
  rateLimit?: { requests: number; windowSeconds: number };
  maxBodyMb: number;
  responseTimeoutMs: number;
  checkTimeoutMs: number;
  queueTimeoutMs: number;
  tunnelTimeoutMs: number;
}
