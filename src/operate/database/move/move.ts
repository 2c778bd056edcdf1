/**
 * Moves the application's database from one server to another while it is written to: schema, rows, changes;
 * compared, then switched. The two may be of different versions.
 */
import pg from 'pg';
import type { SystemPostgres } from '../../../engines/system-postgres.ts';
import { Comparison, type OpenTable } from './compare.ts';
import { connectTo } from './cut-over.ts';
import {
  type CopyProgress,
  startFollowing,
  stopFollowing,
  stopPublishing,
  untilCaughtUp,
  untilCopied,
} from './follow.ts';
import { giveIdentities, requireMovable, tablesOf } from './movable.ts';
import { copyRoles } from './roles.ts';
import { type MoveEnd, SchemaCopy } from './schema.ts';

/** After a copy that took hours there may be much to catch up with. */
const CATCH_UP_MS = 600_000;

export interface Copied {
  /** What is to be looked at again when nothing is written any more. */
  open: OpenTable[];
  tables: number;
}

export interface MoveProgress {
  copying?: (progress: CopyProgress) => void;
}

/**
 * Copies everything, and follows. Whatever an earlier attempt left is cleared first.
 * @param owner role that owns the database
 * @throws NotMovable, SchemaNotCopied, CopyStands, RowsDiffer
 */
export async function copyAndFollow(
  tools: SystemPostgres,
  from: MoveEnd,
  to: MoveEnd,
  owner: string,
  progress: MoveProgress = {},
): Promise<Copied> {
  const source = await connectTo(from);
  try {
    await clearMove(from, to);
    const admin = await connectTo({ ...to, database: 'postgres' });
    try {
      await requireMovable(source, admin, to.major);
      await copyRoles(source, admin, to.database);
      const name = pg.escapeIdentifier(to.database);
      await admin.query(`drop database if exists ${name} with (force)`);
      await admin.query(`create database ${name} owner ${pg.escapeIdentifier(owner)}`);
      await copyRoles(source, admin, to.database);
    } finally {
      await admin.end();
    }
    return await copyRows(tools, source, from, to, progress);
  } finally {
    await source.end();
  }
}

async function copyRows(
  tools: SystemPostgres,
  source: pg.Client,
  from: MoveEnd,
  to: MoveEnd,
  progress: MoveProgress,
): Promise<Copied> {
  const target = await connectTo(to);
  const schema = new SchemaCopy(tools, from, to);
  try {
    await giveIdentities(source);
    await schema.read();
    await schema.makeTables();
    const tables = await tablesOf(source);
    await startFollowing(source, target, from, tables);
    await untilCopied(target, progress.copying);
    await schema.makeIndexes();
    await refreshViews(target);
    await target.query('analyze');
    await untilCaughtUp(source, target, CATCH_UP_MS);
    const comparison = await Comparison.of(source, target);
    const open: OpenTable[] = [];
    for (const table of tables) {
      const left = await comparison.follow(table);
      if (left) open.push(left);
    }
    return { open, tables: tables.length };
  } finally {
    await target.end();
  }
}

/** What a materialized view holds is not replicated. In the order of their making, which is that of their needs. */
async function refreshViews(target: pg.Client): Promise<void> {
  const { rows } = await target.query<{ name: string }>(
    `select oid::regclass::text as name from pg_class where relkind = 'm' order by oid`,
  );
  for (const { name } of rows) await target.query(`refresh materialized view ${name}`);
}

/** Takes away what a move made on both sides; rows are left where they are. */
export async function clearMove(...ends: MoveEnd[]): Promise<void> {
  const clients: pg.Client[] = [];
  try {
    // One that does not answer, or whose database is not there, has nothing that could hurt.
    for (const end of ends) {
      const client = await connectTo(end).catch(() => undefined);
      if (client) clients.push(client);
    }
    for (const client of clients) await stopFollowing(client);
    for (const client of clients) await stopPublishing(client);
  } finally {
    for (const client of clients) await client.end();
  }
}
