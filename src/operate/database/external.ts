/** A PostgreSQL that the user runs: it is looked at, and used as it is. */
import pg from 'pg';
import { BanyanError } from '../../errors.ts';
import { DATA_CENTRE, type RunningDatabase } from './running.ts';

const CONNECT_TIMEOUT_MS = 5_000;

export class ExternalDatabaseUnreachable extends BanyanError {
  constructor(where: string, cause: Error) {
    super('EXTERNAL_DATABASE_UNREACHABLE', {
      what: `The database that the topology names cannot be used: ${cause.message || String(cause)}`,
      where,
      remedy:
        'Check `database.url`: host, port, user, password and database name; remove it to let Banyan run PostgreSQL',
      cause,
    });
  }
}

/**
 * @param readers `host:port` of its replicas
 * @throws ExternalDatabaseUnreachable also when one of the replicas is
 */
export async function useExternalDatabase(
  url: string,
  readers: readonly string[] = [],
): Promise<RunningDatabase> {
  const running = await look(url);
  for (const reader of readers) {
    const at = new URL(url);
    at.host = reader;
    const { members } = await look(at.href);
    running.members.push(...members);
  }
  return running;
}

async function look(url: string): Promise<RunningDatabase> {
  const { hostname, port, pathname } = new URL(url);
  const where = { host: hostname || 'localhost', port: Number(port || 5432) };
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
  });
  client.on('error', () => {});
  try {
    await client.connect();
    const { rows } = await client.query<{ version: string; name: string; allowed: number }>(
      `select current_setting('server_version') as version, current_database() as name,
              current_setting('max_connections')::int as allowed`,
    );
    const { version, name, allowed } = rows[0]!;
    return {
      url,
      maxConnections: allowed,
      members: [{ ...where, dataCentre: DATA_CENTRE }],
      name: decodeURIComponent(pathname.slice(1)) || name,
      summary: `PostgreSQL ${version} on ${where.host}:${where.port}, not run by Banyan`,
    };
  } catch (error) {
    throw new ExternalDatabaseUnreachable(`${where.host}:${where.port}`, error as Error);
  } finally {
    await client.end().catch(() => {});
  }
}
