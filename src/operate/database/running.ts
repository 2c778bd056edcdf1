/** A database that serves, whatever kind it is, and with which credentials it is reached. */
import { SUPERUSER } from '../../engines/postgres.ts';
import type { Member } from '../../map/runtime-map.ts';
import type { Deployment } from '../deployment.ts';

/** Where the local machine stands until there are data centres. */
export const DATA_CENTRE = 'local';

export interface RunningDatabase {
  /** For the application: the owner's credentials, at what was the primary then. A secret. */
  url: string;
  /** All servers that hold the rows, in no order. */
  members: Member[];
  /** The database's name. */
  name: string;
  /** How many connections each server allows. */
  maxConnections: number;
  /** For people: `PostgreSQL 18.4 on 127.0.0.1:40123`. */
  summary: string;
}

/** Where one server listens. */
export interface ServerAddress {
  host: string;
  port: number;
}

/** The application's own credentials: the role that owns the database, no superuser. */
export function ownerUrl({ database, secrets }: Deployment, at: ServerAddress): string {
  return urlOf(database, secrets.ownerPassword, at, database);
}

/** For operations alone. */
export function superuserUrl(
  { secrets }: { secrets: Pick<Deployment['secrets'], 'superuserPassword'> },
  at: ServerAddress,
  name: string,
): string {
  return urlOf(SUPERUSER, secrets.superuserPassword, at, name);
}

function urlOf(user: string, password: string, { host, port }: ServerAddress, name: string) {
  return `postgres://${user}:${password}@${host.includes(':') ? `[${host}]` : host}:${port}/${name}`;
}
