/** Makes what the application needs in a new server: the role that owns its database, and the database. */
import pg from 'pg';
import { outcomeFunctions } from '../../app/database/outcome-functions.ts';
import { breakConnection } from '../../app/database/pool-internals.ts';
import { decisionTable } from '../../app/database/shards/two-phase/decisions.ts';
import { hasCode } from '../../errors.ts';
import type { Deployment } from '../deployment.ts';
import { ownerUrl, type ServerAddress, superuserUrl } from './running.ts';

const CONNECT_TIMEOUT_MS = 5_000;
const CLOSE_TIMEOUT_MS = 1_000;

/**
 * Makes the owner's role and the database, unless they are there. Each statement leaves what is there alone,
 * so that a start that was cut short is completed by the next.
 */
export async function provision(deployment: Deployment, at: ServerAddress): Promise<void> {
  const { database, secrets } = deployment;
  const name = pg.escapeIdentifier(database);
  await withClient(superuserUrl(deployment, at, 'postgres'), async client => {
    const password = pg.escapeLiteral(secrets.ownerPassword);
    const role = await client.query('select from pg_roles where rolname = $1', [database]);
    await client.query(
      `${role.rowCount ? 'alter' : 'create'} role ${name} with login password ${password}`,
    );
    // The pool asks each server where it stands in the log, which is not for everyone to know.
    await client.query(`grant pg_monitor to ${name}`);
    const found = await client.query('select from pg_database where datname = $1', [database]);
    if (!found.rowCount) await client.query(`create database ${name} owner ${name}`);
  });
  await withClient(superuserUrl(deployment, at, database), client =>
    client.query(
      // The catalog's tables go into it, by the owner.
      `create schema if not exists banyan authorization ${name};
        ${outcomeFunctions(database)} ${decisionTable(database)}`,
    ),
  );
}

/** Whether the owner can connect: false where provisioning mends it. */
export async function isProvisioned(deployment: Deployment, at: ServerAddress): Promise<boolean> {
  try {
    await withClient(ownerUrl(deployment, at), async () => {});
    return true;
  } catch (error) {
    // Wrong password, no such role, no such database.
    if (hasCode(error, '28P01', '28000', '3D000')) return false;
    throw error;
  }
}

/**
 * Runs `body` with one connection, which is closed in the end.
 * @param limits in milliseconds: for whoever would rather do without the answer than wait
 */
export async function withClient<T>(
  connectionString: string,
  body: (client: pg.Client) => Promise<T>,
  limits: { connectMs?: number; queryMs?: number } = {},
): Promise<T> {
  const client = new pg.Client({
    connectionString,
    connectionTimeoutMillis: limits.connectMs ?? CONNECT_TIMEOUT_MS,
    ...(limits.queryMs ? { query_timeout: limits.queryMs } : {}),
    application_name: 'banyan operation',
  });
  client.on('error', () => {});
  try {
    await client.connect();
    return await body(client);
  } finally {
    await closed(client);
  }
}

/** A server that was frozen meanwhile does not close the connection, and does not keep it open either. */
async function closed(client: pg.Client): Promise<void> {
  const limit = setTimeout(() => breakConnection(client), CLOSE_TIMEOUT_MS);
  await client.end().catch(() => {});
  clearTimeout(limit);
}
