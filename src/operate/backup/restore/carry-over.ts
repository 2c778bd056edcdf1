/**
 * What the catalog has and a restore must not take back: releases, whose folders are still there, what the tiers should
 * be, and the journal of what was done.
 */
import type pg from 'pg';

type Queryable = Pick<pg.Client, 'query'>;
type Row = Record<string, unknown>;

export interface CatalogRows {
  settings: Row[];
  operations: Row[];
  releases: Row[];
}

/** The journal's last ones; older ones are in the restored database or are of no use any more. */
const OPERATIONS_LIMIT = 200;

/** @param client in the application's database */
export async function readCatalog(client: Queryable): Promise<CatalogRows> {
  const rows = async (query: string) =>
    (await client.query<{ row: Row }>(`select to_jsonb(t) as row from (${query}) t`)).rows.map(
      ({ row }) => row,
    );
  return {
    settings: await rows(`select * from banyan.settings where key like '%.shape'`),
    operations: await rows(
      `select * from banyan.operations order by id desc limit ${OPERATIONS_LIMIT}`,
    ),
    releases: await rows('select * from banyan.releases'),
  };
}

/** Writes it into the restored database, whatever was there under the same names. */
export async function writeCatalog(
  client: Queryable,
  { settings, operations, releases }: CatalogRows,
): Promise<void> {
  const replace = async (table: string, key: string, rows: Row[]) => {
    const json = JSON.stringify(rows);
    await client.query(
      `delete from banyan.${table} where ${key} in
         (select r.${key} from jsonb_populate_recordset(null::banyan.${table}, $1) r)`,
      [json],
    );
    await client.query(
      `insert into banyan.${table} overriding system value
       select * from jsonb_populate_recordset(null::banyan.${table}, $1)`,
      [json],
    );
  };
  await client.query('begin');
  await replace('settings', 'key', settings);
  await replace('operations', 'id', operations);
  await replace('releases', 'number', releases);
  await client.query(
    `select setval(pg_get_serial_sequence('banyan.operations', 'id'),
                   greatest((select max(id) from banyan.operations), 1))`,
  );
  await client.query('commit');
}

/** One that ran at the moment that was restored runs no more. And what was done now. */
export async function noteRestore(
  client: Queryable,
  summary: string,
  startedAt: string,
  steps: unknown,
): Promise<void> {
  await client.query(
    `update banyan.operations set state = 'undone', ended_at = now(),
            error = 'the database was restored to a moment in its middle' where state = 'running'`,
  );
  await client.query(
    `insert into banyan.operations (kind, summary, after, state, steps, controller, started_at, ended_at)
     values ('restore', $1, '{}', 'done', $2, 'banyan restore', $3, now())`,
    [summary, JSON.stringify(steps), startedAt],
  );
}
