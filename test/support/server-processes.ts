/** The processes of a PostgreSQL server of this machine, to freeze or kill: asked from the server and the kernel. */
import { readdirSync, readFileSync } from 'node:fs';
import type pg from 'pg';

/** @param pool as superuser */
export async function postmasterOf(pool: pg.Pool): Promise<number> {
  const { rows } = await pool.query<{ text: string }>(
    "select pg_read_file('postmaster.pid') as text",
  );
  return Number.parseInt(rows[0]!.text, 10);
}

/** SIGKILL to all of a server at once, also to what is frozen. */
export async function killServer(pool: pg.Pool): Promise<void> {
  const postmaster = await postmasterOf(pool);
  process.kill(postmaster, 'SIGSTOP');
  const children = readdirSync('/proc').filter(
    name => /^\d+$/.test(name) && parentOf(name) === postmaster,
  );
  for (const pid of [postmaster, ...children.map(Number)]) process.kill(pid, 'SIGKILL');
}

/** Nothing of the log leaves this primary until it is let go on. @returns lets it go on */
export const freezeSenders = (primary: pg.Pool) => freeze(primary, 'pg_stat_replication');

/** Nothing of the log gets to this standby until it is let go on. @returns lets it go on */
export const freezeReceiver = (standby: pg.Pool) => freeze(standby, 'pg_stat_wal_receiver');

async function freeze(pool: pg.Pool, view: string): Promise<() => void> {
  const { rows } = await pool.query<{ pid: number }>(`select pid from ${view}`);
  if (rows.length === 0) throw new Error(`there is nobody in ${view}`);
  for (const { pid } of rows) process.kill(pid, 'SIGSTOP');
  return () => {
    for (const { pid } of rows) process.kill(pid, 'SIGCONT');
  };
}

/** The second field, the name, may hold spaces; the state and the parent follow its bracket. */
function parentOf(pid: string): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
  } catch {
    return 0;
  }
}
