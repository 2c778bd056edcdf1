/**
 * A PostgreSQL that the user runs: it is looked at, and used as it is.
 *
 * Holds true here: nothing is used as a replica that is not one. A replica that does not answer is told of and kept
 * among the members: it may be back any moment, and the application's pool notices by itself.
 */
import pg from 'pg';
import { BanyanError, hasCode } from '../../errors.ts';
import type { Member } from '../../map/runtime-map.ts';
import { DATA_CENTRE, type RunningDatabase } from './running.ts';

const CONNECT_TIMEOUT_MS = 5_000;
/** What says that nobody is there, and not that something is wrong with the configuration. */
const NOBODY_THERE = [
  'ECONNREFUSED',
  'ECONNRESET',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ETIMEDOUT',
  'EAI_AGAIN',
  // PostgreSQL is starting, or stopping.
  '57P03',
] as const;

export class ExternalDatabaseUnreachable extends BanyanError {
  constructor(where: string, cause: Error) {
    super('EXTERNAL_DATABASE_UNREACHABLE', {
      what: `The database that the topology names cannot be used: ${reasonOf(cause)}`,
      where,
      remedy:
        'Check `database.url`: host, port, user, password and database name; remove it to let Banyan run PostgreSQL',
      cause,
    });
  }
}

export class NotAReplica extends BanyanError {
  constructor(where: string, reason: string, cause?: unknown) {
    super('NOT_A_REPLICA', {
      what: `\`database.readers\` names a server that cannot be read from in the place of the one in \`database.url\`: ${reason}`,
      where,
      remedy:
        'Name streaming replicas of it, as `host:port`: each is asked with the user, password and database of `database.url`',
      cause,
    });
  }
}

export interface ExternalDatabase extends RunningDatabase {
  /** For people: replicas that do not answer. */
  notes: string[];
}

interface Look extends Pick<RunningDatabase, 'maxConnections' | 'name'> {
  version: string;
  member: Member;
  /** The same for a primary and all of its replicas; undefined where it may not be asked. */
  identifier: string | undefined;
  isStandby: boolean;
}

/**
 * @param readers `host:port` of its replicas
 * @throws ExternalDatabaseUnreachable, NotAReplica
 */
export async function useExternalDatabase(
  url: string,
  readers: readonly string[] = [],
): Promise<ExternalDatabase> {
  let main: Look;
  try {
    main = await look(url);
  } catch (error) {
    throw new ExternalDatabaseUnreachable(addressOf(url), error as Error);
  }
  const members = [main.member];
  const notes: string[] = [];
  const looks = readers.map(async reader => {
    const at = new URL(url);
    at.host = reader;
    members.push(memberAt(at.href));
    const reason = await whyNoReplica(at.href, main);
    if (reason) notes.push(reason);
  });
  await Promise.all(looks);
  const replicas = readers.length;
  const others = replicas ? `, and ${replicas} replica${replicas === 1 ? '' : 's'}` : '';
  return {
    url,
    maxConnections: main.maxConnections,
    members,
    name: main.name,
    summary: `PostgreSQL ${main.version} on ${addressOf(url)}${others}, not run by Banyan`,
    notes,
  };
}

/**
 * @returns undefined for one that serves; a note for one that does not answer
 * @throws NotAReplica
 */
async function whyNoReplica(url: string, main: Look): Promise<string | undefined> {
  const where = addressOf(url);
  let found: Look;
  try {
    found = await look(url);
  } catch (error) {
    // pg's own time limit has no code.
    const isSilent = hasCode(error, ...NOBODY_THERE) || /timeout/i.test((error as Error).message);
    if (!isSilent) throw new NotAReplica(where, reasonOf(error as Error), error);
    return `The replica at ${where}, of \`database.readers\`, does not answer (${reasonOf(error as Error)}): nothing is read from it until it does`;
  }
  const { identifier } = found;
  if (identifier && main.identifier && identifier !== main.identifier) {
    throw new NotAReplica(where, 'it is another database cluster, with rows of its own');
  }
  if (!found.isStandby && !main.isStandby && addressOf(url) !== addressOfMember(main.member)) {
    throw new NotAReplica(where, 'it is a primary itself, and follows nobody');
  }
  return undefined;
}

async function look(url: string): Promise<Look> {
  const { pathname } = new URL(url);
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
  });
  client.on('error', () => {});
  try {
    await client.connect();
    const { rows } = await client.query<{
      version: string;
      name: string;
      allowed: number;
      standby: boolean;
    }>(
      `select current_setting('server_version') as version, current_database() as name,
              current_setting('max_connections')::int as allowed, pg_is_in_recovery() as standby`,
    );
    const { version, name, allowed, standby } = rows[0]!;
    const control = await client
      .query<{ id: string }>('select system_identifier::text as id from pg_control_system()')
      // Some services allow this to nobody.
      .catch(() => undefined);
    return {
      version,
      maxConnections: allowed,
      member: memberAt(url),
      name: decodeURIComponent(pathname.slice(1)) || name,
      identifier: control?.rows[0]?.id,
      isStandby: standby,
    };
  } finally {
    await client.end().catch(() => {});
  }
}

function memberAt(url: string): Member {
  const { hostname, port } = new URL(url);
  return { host: hostname || 'localhost', port: Number(port || 5432), dataCentre: DATA_CENTRE };
}

function addressOf(url: string): string {
  return addressOfMember(memberAt(url));
}

function addressOfMember({ host, port }: Member): string {
  return `${host}:${port}`;
}

function reasonOf(error: Error): string {
  return error.message || String(error);
}
