/**
 * The shape that a deployment should have, as its owner writes it in `banyan.config.ts`.
 *
 * Glossary (the same words in code, command line, documentation and errors):
 * - deployment: one application with everything that serves it.
 * - tier: a layer of the deployment that does one job: web, database, cache, …
 * - unit: one supervised process of a tier: `web-1`, `postgres-1`.
 * - machine: where units run. Rung 1 has one, the local one.
 *
 * These types are the documentation: each option tells its meaning, its unit, its default and why
 * one would change it. `validate.ts` checks the same shape at run time; the compiler holds the two
 * together.
 */

export interface Topology {
  /**
   * The deployment's name: lower-case letters, digits and dashes.
   * Default: the `name` in `package.json`, else the folder's name.
   */
  name?: string;
  /** The web tier: how your application is started and when it counts as ready. */
  web?: WebTier;
  /**
   * The load balancer in front of the web servers.
   * Default: one, as soon as there is more than one web server; none for a single one.
   */
  balancer?: Balancer;
  /** The database tier: an embedded PostgreSQL unless a `url` names one that you run yourself. */
  database?: DatabaseTier;
  /**
   * The cache, that `createCache` uses: `true` is the memory of each web server, told by the database's own log what
   * changes; `{ servers: 1 }` adds a Redis that all of them share, `{ servers: 3 }` a Redis Cluster.
   * Default: none; what is read from the database is then not cached.
   */
  cache?: boolean | CacheTier;
  /**
   * The workers: processes of the same release that do what is published to the queue, beside the web servers.
   * Default: none; a web server may work on the queue itself.
   */
  workers?: WorkersTier;
  /**
   * Where messages are kept that are published outside of transactions: `'postgresql'`, in the application's database, as all
   * others; `{ engine: 'rabbitmq' }`, in a RabbitMQ that Banyan runs, three nodes of which survive the loss of one; or
   * `{ url }`, in one that you run.
   * Default: `postgresql`.
   */
  queue?: 'postgresql' | QueueTier;
  /** Log files of the units. */
  logs?: Logs;
}

export interface WebTier {
  /**
   * The command that starts one web server, run in the application's folder with `node_modules/.bin`
   * on the PATH. It must listen on `PORT`.
   * Default: the `start` script of `package.json`, else `node` with its `main` file, else the first
   * of `server.ts`, `server.js`, `index.ts`, `index.js` that is there.
   */
  command?: string;
  /**
   * The port that users connect to; given to the command as `PORT`. 0 takes any free one.
   * Default: 3000.
   */
  port?: number;
  /**
   * The address to listen on; given to the command as `HOST`. `0.0.0.0` opens it to the network.
   * Default: `127.0.0.1`, so that nothing is public unless you say so.
   */
  host?: string;
  /**
   * The path whose `200` means ready. A server that answers it with `404` does not know it and
   * counts as ready as soon as it answers at all.
   * Default: `/readyz`.
   */
  ready?: string;
  /**
   * How long a start may take before it counts as failed, in milliseconds.
   * Default: 30000; raise it for an application that warms up for longer.
   */
  startTimeoutMs?: number;
  /**
   * How long requests in flight may take to finish when the server stops, in milliseconds; after
   * that it is killed.
   * Default: 10000.
   */
  drainTimeoutMs?: number;
  /**
   * More environment variables for the command. Names that Banyan sets itself (`PORT`,
   * `DATABASE_URL`, …) are refused.
   * Default: none; the environment of `banyan up` is passed on in any case.
   */
  env?: Record<string, string>;
  /**
   * How many identical web servers run: a number, or bounds between which Banyan chooses by how busy
   * they are. More than one needs the balancer.
   * Default: 1.
   */
  servers?: number | ServerBounds;
  /**
   * Shares of the requests, for servers on unequal machines, 1 to 256 each, in the order of the
   * servers: `[100, 50]` gives the second half of what the first gets.
   * Default: all the same.
   */
  weights?: number[];
  /**
   * Requests that one server works on at a time; more wait at the balancer.
   * Default: 256; lower it for an application that computes a lot.
   */
  maxConcurrency?: number;
  /**
   * Sends a client to the same server each time, by a cookie. For applications that keep state in the
   * server's memory. What it costs: load spreads by clients, not by requests; when a server goes,
   * its clients lose their state; a release moves every one of them.
   * Default: false.
   */
  sticky?: boolean;
  /**
   * The command that builds a release, run once in the application's folder by `banyan release`.
   * Default: `npm run build` if `package.json` has a `build` script, else none.
   */
  build?: string;
}

export interface ServerBounds {
  /** Never fewer than these. At least 1. */
  min: number;
  /** Never more than these. */
  max: number;
  /**
   * How busy the servers should be on average, as a part of one processor each or of their
   * `maxConcurrency`, whichever is higher.
   * Default: 0.6.
   */
  target?: number;
  /**
   * How long the load must have been lower before a server is taken away, in milliseconds.
   * Default: 60000; raise it for a load that comes in waves.
   */
  scaleDownAfterMs?: number;
}

export interface Balancer {
  /**
   * How the next server is chosen: in turn; the one with the fewest requests in flight, which is better
   * for requests of very unequal length; or of two picked at random the less busy one, which several
   * balancers that know nothing of each other do best with.
   * Default: `roundrobin`.
   */
  algorithm?: 'roundrobin' | 'leastconn' | 'random';
  /**
   * The addresses to listen on, one balancer each: two make the balancer no single point of failure
   * (both in the DNS, or behind `virtualAddress`).
   * Default: `web.host` alone.
   */
  addresses?: string[];
  /**
   * An address that moves to a living balancer by VRRP; for it Banyan writes keepalived's configuration
   * to `.banyan/balancer/`. Needs two `addresses`.
   * Default: none.
   */
  virtualAddress?: string;
  /** HTTPS with HTTP/2. Default: none; plain HTTP. */
  tls?: Tls;
  /**
   * The most requests of one client (IP address) in a time; more are answered with 429. Each balancer
   * counts for itself, and anew after a change of its settings.
   * Default: no limit.
   */
  rateLimit?: RateLimit;
  /**
   * A request with a longer body is answered with 413, in megabytes. It goes by the length that the
   * client announces: a body of unknown length (`Transfer-Encoding: chunked`, a stream over HTTP/2) is
   * passed on as it comes, since HAProxy would have to hold it in memory to measure it. Let the
   * application limit those: Express and Fastify do by default, Hono has `bodyLimit`.
   * Default: 32.
   */
  maxBodyMb?: number;
  /**
   * How long a server may take to answer, in milliseconds; then a request that may be repeated (GET, PUT, …)
   * goes to another if its body is not longer than 16 kB, others get 504.
   * Default: 30000.
   */
  responseTimeoutMs?: number;
  /**
   * How long a server may take to answer its health check, in milliseconds. Three times in a row too
   * long, and it gets no requests; a connection that it refuses counts at once. Long enough for a
   * server that is only busy.
   * Default: 5000.
   */
  checkTimeoutMs?: number;
  /**
   * How long a request may wait while all servers are busy, in milliseconds.
   * Default: 30000.
   */
  queueTimeoutMs?: number;
  /**
   * How long a WebSocket may be silent, in milliseconds.
   * Default: 3600000.
   */
  tunnelTimeoutMs?: number;
}

export interface Tls {
  /** The port for HTTPS. Default: 3443. */
  port?: number;
  /**
   * A PEM file with the certificate, its chain and its private key, relative to the application's folder.
   * Default: a self-signed one is made, for trying.
   */
  certificate?: string;
  /**
   * Send plain HTTP on to HTTPS.
   * Default: false.
   */
  redirect?: boolean;
}

export interface RateLimit {
  requests: number;
  /** The time in which they are counted, in seconds. Default: 10. */
  windowSeconds?: number;
}

export interface DatabaseTier {
  /**
   * A PostgreSQL that you run yourself, `postgres://user:password@host:port/name`. Banyan then uses
   * it and runs none. Write `process.env.DATABASE_URL` here to keep the password out of the file.
   * Default: none; Banyan runs PostgreSQL from npm, its data in `.banyan/postgres`.
   */
  url?: string;
  /**
   * Replicas of the database that `url` names, `host:port` each: with the same user and password. Reads go to them.
   * Which of all of them is the primary is asked from the servers themselves, so these may take over.
   * Default: none.
   */
  readers?: string[];
  /**
   * How many copies of the database follow the primary, take reads, and stand in when it is lost. With one or more
   * of them the database is the system's PostgreSQL under Patroni, and a write is acknowledged when it is on
   * two of its servers.
   * Default: 0; one server, from npm.
   */
  replicas?: number;
  /**
   * How many members of etcd agree on who is the primary, when there are replicas: 1, 3 or 5. Three serve
   * while two of them do.
   * Default: 1, which is enough on one machine: it is started again when it ends, and the database goes on
   * meanwhile.
   */
  etcd?: 1 | 3 | 5;
  /**
   * What happens when no replica is left: `true`, writes wait for one, so that every acknowledged write is on two
   * servers; `false`, the primary goes on alone.
   * Default: `true` from two replicas on; `false` with a single one, whose loss would otherwise stop all writes.
   */
  strict?: boolean;
  /**
   * Over how many databases the rows of the sharded `tables` are spread. Each is a PostgreSQL of its own, with
   * `replicas` of its own. Its number is fixed once there are tables.
   * Default: 1.
   */
  shards?: number;
  /**
   * How tables are spread over the shards, by `table` or `schema.table` (without a schema: `public`):
   * - `{ shardBy: 'author_id' }`: each row is where the hash of that column says. The column is in the primary
   *   key, and is an integer, text or a uuid. Tables whose keys are of one kind are co-located: rows with the same
   *   key are on the same shard, and may be joined by it.
   * - `'reference'`: all of it is on every shard, and may be joined with anything. For small tables that are
   *   seldom written.
   * - not named: all of it is on the first shard.
   *
   * `banyan doctor` proposes one for the tables that are there.
   * Default: none.
   */
  tables?: Record<string, 'reference' | ShardedBy>;
  /**
   * Columns of sharded tables whose values are unique across all shards, `table.column` or
   * `schema.table.column`. What is unique within a shard alone (an index that has the shard key in it) is not
   * named.
   * Default: none.
   */
  unique?: string[];
  /**
   * Columns that are kept as copies of others, wherever the rows are:
   * `{ 'articles.author_name': 'users.name via author_id' }` keeps `articles.author_name` what `users.name` is in the row
   * whose primary key is `articles.author_id`. A join over shards becomes a local read. Copies follow within
   * moments after the commit; `banyan status` shows how far they are behind. The application never writes the column.
   * Default: none.
   */
  denormalize?: Record<string, string>;
  /**
   * The port of the embedded PostgreSQL on the loopback address; of the first, when there are several shards.
   * 0 takes any free one and keeps it for as long as it stays free.
   * Default: 0.
   */
  port?: number;
  /**
   * Where the schema's migrations come from: a folder of `.sql` files that run once each in the
   * order of their names.
   * Default: `migrations` if there is such a folder with `.sql` files, else none.
   */
  migrations?: string;
  /**
   * Your own migration command, in the place of `migrations`: `npx drizzle-kit migrate`,
   * `npx prisma migrate deploy`. It runs before the web server starts, with `DATABASE_URL` set, and
   * one at a time however many deploys run together.
   * Default: none.
   */
  migrate?: string;
  /**
   * Memory that PostgreSQL may plan with, in megabytes; shared buffers and the like follow from it.
   * Default: a quarter of the machine's memory, 2048 at most, shared by all servers on it.
   */
  memoryMb?: number;
  /**
   * The most connections at a time.
   * Default: 100.
   */
  maxConnections?: number;
  /**
   * More PostgreSQL settings, by their names: `{ log_min_duration_statement: '200ms' }`. Those that
   * Banyan's promises rest on (`fsync`, `wal_level`, …) are refused.
   * Default: none.
   */
  settings?: Record<string, string | number | boolean>;
  /**
   * Copies of the database beside it, and every change since: any moment of the past can be restored. Needs `replicas`
   * of 1 or more, and pgBackRest. `backup: {}` takes all defaults.
   * Default: none.
   */
  backup?: Backup;
}

export interface Backup {
  /**
   * The folder of the repository, relative to the application's. On another disk than the database it survives
   * the loss of that disk.
   * Default: `.banyan/backups`.
   */
  repository?: string;
  /**
   * How many full backups are kept, with those that build on them and the log since the oldest; older ones are deleted.
   * Default: 2.
   */
  keep?: number;
  /**
   * How often a backup is made by itself: `6h`, `1d`. Every seventh is a full one, the others hold what changed. From
   * the last one on a restore replays the log: the more often, the faster a restore.
   * Default: `1d`.
   */
  every?: string;
  /**
   * Encrypts the repository with a key from `.banyan/secrets.json`; without that file no backup can be read any more.
   * It cannot be changed once there is a repository.
   * Default: false.
   */
  encrypt?: boolean;
  /**
   * Log that waits for a repository that takes nothing (full, not mounted), in megabytes. Beyond it log is thrown away
   * so that the database goes on, and another backup is made as soon as that is possible: no moment in between can
   * be restored.
   * Default: 4096.
   */
  backlogMb?: number;
}

export interface CacheTier {
  /**
   * How many Redis servers share the entries: 0, each web server's memory alone; 1, one Redis; 3 and more, a Redis Cluster
   * of as many parts. Two are refused: of two nobody could tell which of them is lost.
   * Default: 1; 0 with `cache: true`.
   */
  servers?: number;
  /**
   * How many copies each part of a Redis Cluster has besides, one of which takes over when it is lost.
   * Default: 1 from three servers on, else 0: a single Redis that is lost is started again, empty.
   */
  replicas?: number;
  /**
   * Memory of each Redis server, in megabytes; when it is full, what was not used for the longest goes.
   * Default: a twentieth of the machine's memory, shared by all of them; 32 at least and 1024 at most.
   */
  memoryMb?: number;
  /**
   * A Redis that you run yourself, `redis://user:password@host:port` (`rediss://` with TLS). Banyan then uses it and runs
   * none. Write `process.env.REDIS_URL` here to keep the password out of the file.
   * Default: none.
   */
  url?: string;
  /**
   * How many invalidators there are. One reads the database's log and tells the caches what changes; the others stand by
   * and take over when it ends.
   * Default: 1; it is started again when it ends. 2 saves the second that this takes.
   */
  invalidators?: number;
}

export interface QueueTier {
  /** Default: `rabbitmq`; there is no other. */
  engine?: 'rabbitmq';
  /**
   * How many nodes: of three each message is on two disks before its publisher is told, and one may be lost.
   * Default: 1.
   */
  servers?: 1 | 3;
  /**
   * Memory of each node, in megabytes; when it is full publishers wait.
   * Default: a sixteenth of the machine's memory, shared by all of them; 128 at least and 1024 at most.
   */
  memoryMb?: number;
  /**
   * Publishers wait while there is less room on the disk than this, in megabytes.
   * Default: 200.
   */
  freeDiskMb?: number;
  /**
   * A RabbitMQ that you run yourself, 3.10 or newer, `amqp://user:password@host:port` (`amqps://` with TLS). Write
   * `process.env.RABBITMQ_URL` here to keep the password out of the file.
   * Default: none.
   */
  url?: string;
}

export interface WorkersTier {
  /**
   * How many workers run: a number, or bounds between which Banyan chooses by how much there is in the queue.
   * Default: 1.
   */
  servers?: number | WorkerBounds;
  /**
   * The command that starts one worker, run in the folder of the release with `node_modules/.bin` on the PATH.
   * Default: the `worker` script of `package.json`, else `node` with the first of `worker.ts`, `worker.js`,
   * `worker.mjs` that is there.
   */
  command?: string;
  /**
   * More environment variables for the command, beside those of `web.env`.
   * Default: none.
   */
  env?: Record<string, string>;
  /**
   * How long a start may take before it counts as failed, in milliseconds.
   * Default: 30000.
   */
  startTimeoutMs?: number;
  /**
   * How long jobs in hand may take to finish when the worker stops, in milliseconds; those that are not done by then
   * are handed back, and another worker does them.
   * Default: 30000; raise it for jobs that are long and dear to begin again.
   */
  drainTimeoutMs?: number;
  /**
   * The most memory that a worker's JavaScript may take, in megabytes.
   * Default: what Node chooses.
   */
  memoryMb?: number;
}

export interface WorkerBounds {
  /** Never fewer than these. 0: none while there is nothing to do. */
  min: number;
  /** Never more than these. */
  max: number;
  /**
   * How many messages there should be for each worker, those in its hand among them.
   * Default: 100; lower it for jobs that take seconds.
   */
  depth?: number;
  /**
   * How long a message may wait before there are more workers, in milliseconds.
   * Default: 10000.
   */
  ageMs?: number;
  /**
   * How long fewer must have been enough before a worker is taken away, in milliseconds.
   * Default: 60000; raise it for work that comes in waves.
   */
  scaleDownAfterMs?: number;
}

export interface ShardedBy {
  /** The column by whose hash rows are placed. */
  shardBy: string;
}

export interface Logs {
  /**
   * A unit's log file is rotated at this size, in megabytes.
   * Default: 10.
   */
  maxFileMb?: number;
  /**
   * How many rotated files of a unit are kept beside the current one.
   * Default: 5.
   */
  keepFiles?: number;
}

/**
 * Gives the topology its type in `banyan.config.ts`.
 * @example
 * export default defineTopology({ web: { command: 'node server.ts', port: 8080 } });
 */
export function defineTopology(topology: Topology): Topology {
  return topology;
}
