/** The schema of `database`. */
import * as v from 'valibot';
import { parseCopy, qualifyColumn, qualifyTable } from '../columns.ts';
import { parseDuration } from '../duration.ts';
import type { ShardedBy, Topology } from '../topology.ts';
import { AN_OBJECT, flag, isPlainObject, object, port, protocolOf, text, whole } from './values.ts';

/** Each server of the application holds connections to all of them; and far fewer hold a lot of rows. */
const MOST_SHARDS = 64;

/** Settings that Banyan's promises rest on, and those that it derives from the topology. */
const OWN_SETTINGS = [
  'port',
  'listen_addresses',
  'unix_socket_directories',
  'data_directory',
  'config_file',
  'hba_file',
  'ident_file',
  'external_pid_file',
  'include',
  'include_dir',
  'include_if_exists',
  'fsync',
  'full_page_writes',
  'synchronous_commit',
  'wal_level',
  'password_encryption',
  'archive_mode',
  'archive_command',
  'archive_library',
  'max_connections',
  'max_prepared_transactions',
];

const readers = v.array(
  v.pipe(
    v.string('text'),
    v.regex(/^(\[[0-9a-f:.]+\]|[\w.-]+):\d{1,5}$/i, 'host:port, such as db-2.example.com:5432'),
  ),
  'a list of host:port',
);

const databaseUrl = v.pipe(
  text,
  v.check(
    value => /^postgres(ql)?:$/.test(protocolOf(value)),
    'a URL such as postgres://user:password@host:5432/name',
  ),
);

const settings = v.pipe(
  v.custom<Record<string, string | number | boolean>>(isPlainObject, AN_OBJECT),
  v.record(
    v.pipe(
      v.string(),
      v.regex(/^[A-Za-z_][A-Za-z0-9_.]*$/, 'the name of a PostgreSQL setting'),
      v.check(
        // PostgreSQL does not tell capitals from small letters here.
        name => !OWN_SETTINGS.includes(name.toLowerCase()),
        'another setting: this one Banyan sets itself',
      ),
    ),
    v.custom<string | number | boolean>(
      isSettingValue,
      'text of one line, a number, true or false',
    ),
  ),
);

/** Less than a minute would only keep the machine busy; more than a month is no backup. */
const A_BACKUP_INTERVAL = 'a time from 1m to 31d, such as 6h or 1d';
const backupInterval = v.pipe(
  v.string(A_BACKUP_INTERVAL),
  v.check(value => {
    const ms = parseDuration(value);
    return ms !== undefined && ms >= 60_000 && ms <= 31 * 86_400_000;
  }, A_BACKUP_INTERVAL),
);

/** A name as PostgreSQL keeps it (63 bytes), without what separates names here. */
const SQL_NAME = String.raw`[^."\\\0]{1,63}`;
const tableName = v.pipe(
  v.string(),
  v.regex(new RegExp(`^${SQL_NAME}(\\.${SQL_NAME})?$`), 'a table, `table` or `schema.table`'),
);
const columnName = v.pipe(
  text,
  v.regex(
    new RegExp(`^(${SQL_NAME}\\.)?${SQL_NAME}\\.${SQL_NAME}$`),
    'a column, `table.column` or `schema.table.column`',
  ),
);

const PLACEMENT = "'reference', or { shardBy: 'column' }";
const placement = v.custom<'reference' | ShardedBy>(
  value =>
    value === 'reference' ||
    (isPlainObject(value) &&
      Object.keys(value as object).join() === 'shardBy' &&
      new RegExp(`^${SQL_NAME}$`).test(String((value as ShardedBy).shardBy)) &&
      typeof (value as ShardedBy).shardBy === 'string'),
  PLACEMENT,
);
const tables = v.pipe(
  v.custom<Record<string, 'reference' | ShardedBy>>(isPlainObject, AN_OBJECT),
  v.record(tableName, placement),
);

/** Of these columns some belong to no sharded table. */
function strayColumns(columns: string[], declared: Topology['database'] = {}): string[] {
  const sharded = Object.entries(declared.tables ?? {})
    .filter(([, each]) => each !== 'reference')
    .map(([name]) => qualifyTable(name));
  return columns.filter(
    // What is no column at all is told of elsewhere.
    name =>
      name.includes('.') && !sharded.some(table => qualifyColumn(name).startsWith(`${table}.`)),
  );
}

export const database = v.pipe(
  object({
    url: v.optional(databaseUrl),
    readers: v.optional(readers),
    port: v.optional(port),
    migrations: v.optional(text),
    migrate: v.optional(text),
    memoryMb: v.optional(whole(64, 4_194_304)),
    replicas: v.optional(whole(0, 15)),
    shards: v.optional(whole(1, MOST_SHARDS)),
    tables: v.optional(tables),
    unique: v.optional(v.array(columnName, 'a list of columns')),
    denormalize: v.optional(
      v.record(
        columnName,
        v.pipe(
          text,
          v.check(
            copy => parseCopy(copy) !== undefined,
            'a column and the way to it, such as `users.name via author_id`',
          ),
        ),
        'an object { … } of columns',
      ),
    ),
    etcd: v.optional(v.picklist([1, 3, 5], '1, 3 or 5: an even number survives no more losses')),
    strict: v.optional(flag),
    maxConnections: v.optional(whole(10, 10_000)),
    settings: v.optional(settings),
    backup: v.optional(
      object({
        // A line end or a quote in it would be another option of pgBackRest's file, or another command.
        repository: v.optional(
          v.pipe(
            text,
            v.regex(/^[^\n\r'"\\]+$/, 'a path without quotes, backslashes and line ends'),
          ),
        ),
        keep: v.optional(whole(1, 1_000)),
        every: v.optional(backupInterval),
        encrypt: v.optional(flag),
        backlogMb: v.optional(whole(64, 1_000_000)),
      }),
    ),
  }),
  v.forward(
    v.partialCheck(
      [['url'], ['backup']],
      tier => !(tier.url && tier.backup),
      'no `backup` beside `url`: whoever runs that database backs it up',
    ),
    ['backup'],
  ),
  v.forward(
    v.partialCheck(
      [['replicas'], ['backup']],
      tier => !tier.backup || (tier.replicas ?? 0) > 0,
      '`replicas: 1` or more beside `backup`: pgBackRest works with the PostgreSQL that they run, not with the one from npm',
    ),
    ['backup'],
  ),
  v.forward(
    v.partialCheck(
      [['migrations'], ['migrate']],
      tier => !(tier.migrations && tier.migrate),
      'either `migrations` (a folder) or `migrate` (a command), not both',
    ),
    ['migrate'],
  ),
  v.forward(
    v.partialCheck(
      [['url'], ['replicas']],
      tier => !(tier.url && tier.replicas),
      'no `replicas` beside `url`: Banyan does not run that database. Name its replicas in `readers`',
    ),
    ['replicas'],
  ),
  v.forward(
    v.partialCheck(
      [['url'], ['shards']],
      tier => !tier.url || (tier.shards ?? 1) === 1,
      'no `shards` beside `url`: Banyan runs the shards itself',
    ),
    ['shards'],
  ),
  v.forward(
    v.partialCheck(
      [['url'], ['denormalize']],
      tier => !tier.url || Object.keys(tier.denormalize ?? {}).length === 0,
      'no `denormalize` beside `url`: it takes a superuser of the database',
    ),
    ['denormalize'],
  ),
  v.forward(
    v.partialCheck(
      [['tables']],
      tier => {
        const names = Object.keys(tier.tables ?? {}).map(qualifyTable);
        return new Set(names).size === names.length;
      },
      'each table once: a name without a schema is of `public`',
    ),
    ['tables'],
  ),
  v.forward(
    v.partialCheck(
      [['unique'], ['tables']],
      tier => strayColumns(tier.unique ?? [], tier).length === 0,
      'columns of tables that `tables` shards: in any other table PostgreSQL itself sees to it',
    ),
    ['unique'],
  ),
  v.forward(
    v.partialCheck(
      [['url'], ['readers']],
      tier => !tier.readers?.length || tier.url !== undefined,
      '`url` beside `readers`: they are replicas of a database that you run yourself',
    ),
    ['readers'],
  ),
);

/** PostgreSQL's file has no way to write a line end within a value. */
function isSettingValue(value: unknown): boolean {
  if (typeof value === 'string') return /^[^\0\r\n]*$/.test(value);
  return typeof value === 'boolean' || Number.isFinite(value);
}
