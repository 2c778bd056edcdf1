/**
 * PgBouncer and pgpool-II beside us: each in front of the same servers, as its own documentation advises for what is
 * measured. Debian's packages: `apt-get install -y --no-install-recommends pgbouncer pgpool2` (they start nothing
 * by themselves where policy-rc.d says 101).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chown, mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import { unprivilegedAccount } from '../../src/engines/account.ts';
import { findProgram } from '../../src/engines/find-program.ts';
import { freePort } from '../../src/machines/free-port.ts';
import type { ClusterMember } from '../../test/support/cluster.ts';
import { until } from '../../test/support/until.ts';

const HOST = '127.0.0.1';

export interface Pooler {
  readonly url: string;
  stop(): Promise<void>;
}

/** @returns undefined when it is not installed */
export async function startPgBouncer(
  folder: string,
  server: ClusterMember,
  connections: number,
): Promise<Pooler | undefined> {
  const program = findProgram('pgbouncer');
  if (!program) return undefined;
  const { username, password } = new URL(server.url());
  const port = await freePort(HOST);
  const file = await ownFile(
    folder,
    'pgbouncer.ini',
    `[databases]
postgres = host=${server.host} port=${server.port} user=${username} password=${password}
[pgbouncer]
listen_addr = ${HOST}
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 200
default_pool_size = ${connections}
`,
  );
  return start(program, ['-q', file], `postgres://${username}@${HOST}:${port}/postgres`);
}

/**
 * It splits reads from writes, as we do: reads go to the standby.
 * @returns undefined when it is not installed
 */
export async function startPgpool(
  folder: string,
  primary: ClusterMember,
  standby: ClusterMember,
): Promise<Pooler | undefined> {
  const program = findProgram('pgpool');
  if (!program) return undefined;
  const { username, password } = new URL(primary.url());
  const port = await freePort(HOST);
  const pcpPort = await freePort(HOST);
  const own = path.join(folder, 'pgpool');
  const backend = (i: number, { host, port: at }: ClusterMember, weight: number) => `
backend_hostname${i} = '${host}'
backend_port${i} = ${at}
backend_weight${i} = ${weight}
backend_flag${i} = 'DISALLOW_TO_FAILOVER'`;
  const file = await ownFile(
    own,
    'pgpool.conf',
    `backend_clustering_mode = 'streaming_replication'
listen_addresses = '${HOST}'
port = ${port}
pcp_port = ${pcpPort}
unix_socket_directories = '${own}'
pcp_socket_dir = '${own}'
pid_file_name = '${own}/pgpool.pid'
logdir = '${own}'
num_init_children = 40
max_pool = 1
load_balance_mode = on
allow_clear_text_frontend_auth = on
sr_check_user = '${username}'
sr_check_password = '${password}'
${backend(0, primary, 0)}
${backend(1, standby, 1)}
`,
  );
  return start(
    program,
    ['-n', '-f', file, '-F', path.join(own, 'none'), '-a', path.join(own, 'none')],
    `postgres://${username}:${password}@${HOST}:${port}/postgres`,
  );
}

async function start(program: string, args: string[], url: string): Promise<Pooler> {
  const child = spawn(program, args, { ...unprivilegedAccount(), cwd: '/', stdio: 'ignore' });
  const pooler = { url, stop: () => stop(child) };
  try {
    await until(
      async () => {
        const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 1_000 });
        client.on('error', () => {});
        await client.connect();
        await client.end();
        return true;
      },
      { what: `${path.basename(program)} answers` },
    );
    return pooler;
  } catch (error) {
    await pooler.stop();
    throw error;
  }
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGINT');
  await ended;
}

/** Neither runs as root. */
async function ownFile(folder: string, name: string, text: string): Promise<string> {
  const { uid, gid } = unprivilegedAccount();
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await chown(folder, uid, gid);
  const file = path.join(folder, name);
  await writeFile(file, text, { mode: 0o600 });
  await chown(file, uid, gid);
  return file;
}
