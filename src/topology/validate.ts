/**
 * Checks a topology at run time and reports every mistake at once, before anything is touched.
 *
 * The schema mirrors the types in `topology.ts`; `Mirrors` below makes the compiler refuse a build
 * in which the two differ.
 */
import { distance } from 'fastest-levenshtein';
import * as v from 'valibot';
import { BanyanError } from '../errors.ts';
import {
  DEFAULT_TLS_PORT,
  DEFAULT_WEB_PORT,
  FEWEST_IN_CLUSTER,
  parseCopy,
  qualifyColumn,
  qualifyTable,
} from './defaults.ts';
import { parseDuration } from './duration.ts';
import { show } from './show.ts';
import type { ShardedBy, Topology } from './topology.ts';

/** Environment variables that Banyan sets for an application, besides all that begin with `BANYAN_`. */
const OWN_VARIABLES = ['PORT', 'HOST', 'DATABASE_URL'];

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

/**
 * Plain objects alone; what they hold beside is found by `unknownKeys`, which, unlike valibot's
 * `strictObject`, finds them all. Valibot takes arrays and instances for objects too, and a list of `NAME=value`
 * under `env` would become the variables 0, 1 and 2.
 */
const AN_OBJECT = 'an object { … }';
const object = <const Entries extends v.ObjectEntries>(entries: Entries, allowed = AN_OBJECT) =>
  v.pipe(
    v.custom<v.InferInput<v.ObjectSchema<Entries, undefined>>>(isPlainObject, allowed),
    v.object(entries),
  );

// No operating system passes a zero byte on, neither in a command nor in a variable.
const clean = v.regex(/^[^\0]*$/, 'text without a zero byte');
const text = v.pipe(v.string('text'), v.trim(), v.nonEmpty('text that is not empty'), clean);
const flag = v.boolean('true or false');
const A_PART = 'a number from 0.05 to 1';
/** @param orElse what is allowed in its place, for the message */
const whole = (min: number, max: number, orElse = '') => {
  const allowed = `a whole number from ${min} to ${max}${orElse}`;
  return v.pipe(
    v.number(allowed),
    v.integer(allowed),
    v.minValue(min, allowed),
    v.maxValue(max, allowed),
  );
};
const port = whole(0, 65_535);
/** Each server of the application holds connections to all of them; and far fewer hold a lot of rows. */
const MOST_SHARDS = 64;
const timeoutMs = whole(1, 3_600_000);

const path = v.pipe(text, v.startsWith('/', 'a path that starts with /'));

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

const variables = v.pipe(
  v.custom<Record<string, string>>(isPlainObject, AN_OBJECT),
  v.record(
    v.pipe(
      v.string(),
      v.regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'a name of letters, digits and _'),
      v.check(
        name => !OWN_VARIABLES.includes(name) && !name.startsWith('BANYAN_'),
        'another variable: this one Banyan sets itself',
      ),
    ),
    v.pipe(v.string('text'), clean),
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

const bounds = v.pipe(
  object({
    min: whole(1, 1_000),
    max: whole(1, 1_000),
    scaleDownAfterMs: v.optional(timeoutMs),
    target: v.optional(v.pipe(v.number(A_PART), v.minValue(0.05, A_PART), v.maxValue(1, A_PART))),
  }),
  v.forward(
    v.partialCheck([['min'], ['max']], ({ min, max }) => min <= max, 'at least `min`'),
    ['max'],
  ),
);

/** A number or bounds: told apart first, so that a mistake within the bounds is told as such. */
const servers = v.lazy(input => (isPlainObject(input) ? bounds : webServerCount));
const webServerCount = whole(1, 1_000, ', or { min, max }');

const workerBounds = v.pipe(
  object({
    min: whole(0, 1_000),
    max: whole(0, 1_000),
    depth: v.optional(whole(1, 1_000_000)),
    ageMs: v.optional(whole(100, 86_400_000)),
    scaleDownAfterMs: v.optional(timeoutMs),
  }),
  v.forward(
    v.partialCheck([['min'], ['max']], ({ min, max }) => min <= max, 'at least `min`'),
    ['max'],
  ),
);
const workerServers = v.lazy(input => (isPlainObject(input) ? workerBounds : workerCount));
const workerCount = whole(0, 1_000, ', or { min, max }');

const addresses = v.pipe(
  v.array(text, 'a list of addresses'),
  v.minLength(1, 'at least one address'),
  v.check(list => new Set(list).size === list.length, 'addresses that are all different'),
);

const balancer = v.pipe(
  object({
    algorithm: v.optional(
      v.picklist(['roundrobin', 'leastconn', 'random'], 'roundrobin, leastconn or random'),
    ),
    addresses: v.optional(addresses),
    virtualAddress: v.optional(text),
    tls: v.optional(
      object({
        port: v.optional(whole(1, 65_535)),
        certificate: v.optional(text),
        redirect: v.optional(flag),
      }),
    ),
    rateLimit: v.optional(
      object({ requests: whole(1, 1_000_000), windowSeconds: v.optional(whole(1, 3_600)) }),
    ),
    maxBodyMb: v.optional(whole(1, 100_000)),
    responseTimeoutMs: v.optional(timeoutMs),
    checkTimeoutMs: v.optional(timeoutMs),
    queueTimeoutMs: v.optional(timeoutMs),
    tunnelTimeoutMs: v.optional(whole(1, 86_400_000)),
  }),
  v.forward(
    v.partialCheck(
      [['virtualAddress'], ['addresses']],
      tier => tier.virtualAddress === undefined || (tier.addresses?.length ?? 0) >= 2,
      'two `addresses` for it to move between',
    ),
    ['virtualAddress'],
  ),
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

const A_REDIS_URL = 'a URL such as redis://user:password@host:6379, or rediss:// with TLS';
const A_NUMBER_OF_CACHES =
  '0, 1, or a whole number from 3 to 16: of two nobody could tell which is lost';
const cacheTier = v.pipe(
  object(
    {
      servers: v.optional(
        v.pipe(
          whole(0, 16),
          v.check(number => number !== 2, A_NUMBER_OF_CACHES),
        ),
      ),
      replicas: v.optional(whole(0, 5)),
      memoryMb: v.optional(whole(8, 1_000_000)),
      url: v.optional(
        v.pipe(
          text,
          v.check(value => /^rediss?:$/.test(protocolOf(value)), A_REDIS_URL),
        ),
      ),
      invalidators: v.optional(whole(1, 5)),
    },
    'true, false, or an object { … } such as { servers: 1 }',
  ),
  v.forward(
    v.partialCheck(
      [['replicas'], ['servers']],
      tier => !tier.replicas || (tier.servers ?? 1) >= FEWEST_IN_CLUSTER,
      '`servers: 3` or more beside `replicas`: a single Redis that is lost is started again, empty',
    ),
    ['replicas'],
  ),
  v.forward(
    v.partialCheck(
      [['url'], ['servers']],
      tier => !(tier.url && tier.servers !== undefined),
      'no `servers` beside `url`: Banyan does not run that Redis',
    ),
    ['servers'],
  ),
);
/** Told apart first, so that a mistake within the object is told as such. */
const cache = v.lazy(input => (isPlainObject(input) ? cacheTier : cacheFlag));
const cacheFlag = v.boolean('true, false, or an object { … } such as { servers: 1 }');

const AN_AMQP_URL = 'a URL such as amqp://user:password@host:5672, or amqps:// with TLS';
const A_QUEUE = "'postgresql', or an object { … } such as { engine: 'rabbitmq', servers: 3 }";
const A_NUMBER_OF_NODES = '1 or 3: of two neither could go on alone';
const queueTier = v.pipe(
  object(
    {
      engine: v.optional(v.literal('rabbitmq', "'rabbitmq'")),
      servers: v.optional(v.picklist([1, 3], A_NUMBER_OF_NODES)),
      memoryMb: v.optional(whole(64, 1_000_000)),
      freeDiskMb: v.optional(whole(1, 10_000_000)),
      url: v.optional(
        v.pipe(
          text,
          v.check(value => /^amqps?:$/.test(protocolOf(value)), AN_AMQP_URL),
        ),
      ),
    },
    A_QUEUE,
  ),
  v.forward(
    v.partialCheck(
      [['url'], ['servers']],
      tier => !(tier.url && tier.servers !== undefined),
      'no `servers` beside `url`: Banyan does not run that RabbitMQ',
    ),
    ['servers'],
  ),
);
/** Told apart first, so that a mistake within the object is told as such. */
const queue = v.lazy(input => (isPlainObject(input) ? queueTier : queueName));
const queueName = v.literal('postgresql', A_QUEUE);

const NAME_RULE = 'lower-case letters, digits and dashes, starting with a letter, 40 at most';

const topologySchema = v.pipe(
  object({
    name: v.optional(v.pipe(text, v.regex(/^[a-z][a-z0-9-]{0,39}$/, NAME_RULE))),
    web: v.optional(
      object(
        {
          command: v.optional(text),
          port: v.optional(port),
          host: v.optional(text),
          ready: v.optional(path),
          startTimeoutMs: v.optional(timeoutMs),
          drainTimeoutMs: v.optional(timeoutMs),
          env: v.optional(variables),
          servers: v.optional(servers),
          weights: v.optional(v.array(whole(1, 256), 'a list of numbers')),
          maxConcurrency: v.optional(whole(1, 10_000)),
          sticky: v.optional(flag),
          build: v.optional(text),
        },
        'an object { … }, such as { servers: 2 }',
      ),
    ),
    balancer: v.optional(balancer),
    workers: v.optional(
      object(
        {
          servers: v.optional(workerServers),
          command: v.optional(text),
          env: v.optional(variables),
          startTimeoutMs: v.optional(timeoutMs),
          drainTimeoutMs: v.optional(timeoutMs),
          memoryMb: v.optional(whole(32, 1_000_000)),
        },
        'an object { … }, such as { servers: 2 }',
      ),
    ),
    database: v.optional(
      v.pipe(
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
          etcd: v.optional(
            v.picklist([1, 3, 5], '1, 3 or 5: an even number survives no more losses'),
          ),
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
      ),
    ),
    cache: v.optional(cache),
    queue: v.optional(queue),
    logs: v.optional(
      object({
        maxFileMb: v.optional(whole(1, 10_000)),
        keepFiles: v.optional(whole(1, 1_000)),
      }),
    ),
  }),
  v.forward(
    v.partialCheck(
      [
        ['web', 'port'],
        ['database', 'port'],
      ],
      ({ web, database }) => !database?.port || database.port !== (web?.port ?? DEFAULT_WEB_PORT),
      'another port than that of the web server',
    ),
    ['database', 'port'],
  ),
  v.forward(
    v.partialCheck(
      [
        ['web', 'port'],
        ['balancer', 'tls'],
      ],
      ({ web, balancer }) =>
        !balancer?.tls ||
        (balancer.tls.port ?? DEFAULT_TLS_PORT) !== (web?.port ?? DEFAULT_WEB_PORT),
      'a `port` of its own: this one is that for plain HTTP, `web.port`',
    ),
    ['balancer', 'tls'],
  ),
);

type Mirrors<A, B> = [A] extends [B] ? ([B] extends [A] ? true : never) : never;
const schemaMirrorsTypes: Mirrors<v.InferOutput<typeof topologySchema>, Topology> = true;
void schemaMirrorsTypes;

/** One mistake in a topology. */
export interface TopologyMistake {
  /** Dotted path of the key: `web.port`. */
  path: string;
  /** The value found there, as text. */
  value: string;
  /** What would be right. */
  allowed: string;
  /** The path of the known key that was probably meant, for an unknown one. */
  nearest?: string;
}

export class InvalidTopology extends BanyanError {
  readonly mistakes: TopologyMistake[];

  constructor(file: string, mistakes: TopologyMistake[]) {
    const lines = mistakes.map(mistake => `  ${describe(mistake)}`);
    super('INVALID_TOPOLOGY', {
      what: `${mistakes.length === 1 ? 'One mistake' : `${mistakes.length} mistakes`} in the topology:\n${lines.join('\n')}\n`,
      where: file,
      remedy: 'Nothing was changed. Correct the file and run the command again',
    });
    this.mistakes = mistakes;
  }

  override toJSON() {
    return { ...super.toJSON(), mistakes: this.mistakes };
  }
}

/**
 * @param file where the topology was read, for the error
 * @throws InvalidTopology with every mistake
 */
export function validateTopology(input: unknown, file: string): Topology {
  let result: v.SafeParseResult<typeof topologySchema>;
  let unknown: TopologyMistake[];
  try {
    unknown = unknownKeys(input);
    result = v.safeParse(topologySchema, input);
  } catch (error) {
    // A getter of the user's object that throws.
    const allowed = `values that can be read (${(error as Error).message})`;
    throw new InvalidTopology(file, [{ path: WHOLE, value: 'an object', allowed }]);
  }
  const found = [...unknown, ...(result.issues ?? []).map(toMistake)];
  if (result.success && found.length === 0) return result.output;
  const mistakes = new Map<string, TopologyMistake>();
  // Of several rules that a value breaks the first is told: the others follow from it.
  for (const mistake of found) {
    if (!mistakes.has(mistake.path)) mistakes.set(mistake.path, mistake);
  }
  throw new InvalidTopology(file, [...mistakes.values()]);
}

const WHOLE = '(the whole)';

function toMistake(issue: v.BaseIssue<unknown>): TopologyMistake {
  const keys = (issue.path ?? []).map(({ key }) => String(key));
  const value = issue.path ? issue.path.at(-1)?.value : issue.input;
  return { path: keys.join('.') || WHOLE, value: show(keys, value), allowed: issue.message };
}

function unknownKeys(input: unknown, parent: string[] = []): TopologyMistake[] {
  const entries = entriesAt(parent);
  if (!entries || !isPlainObject(input)) return [];
  const known = Object.keys(entries);
  return Object.entries(input as object).flatMap(([key, value]) => {
    const keys = [...parent, key];
    if (Object.hasOwn(entries, key)) return unknownKeys(value, keys);
    const nearest = nearestKey(key, parent, known);
    return {
      path: keys.join('.'),
      value: show(keys, value),
      allowed: `no such key; known here: ${known.join(', ')}`,
      ...(nearest ? { nearest } : {}),
    };
  });
}

type Entries = Record<string, unknown>;

/** The keys that the schema knows in the object at a path, with their schemas; undefined for no object. */
function entriesAt(keys: string[]): Entries | undefined {
  return keys.reduce<Entries | undefined>(
    (entries, key) => entriesOf(entries?.[key]),
    entriesOf(topologySchema),
  );
}

/** Through `optional` and `pipe`, in which the object lies. */
function entriesOf(schema: unknown): Entries | undefined {
  if (typeof schema !== 'object' || schema === null) return undefined;
  if (schema === servers) return entriesOf(bounds);
  if (schema === workerServers) return entriesOf(workerBounds);
  if (schema === cache) return entriesOf(cacheTier);
  if (schema === queue) return entriesOf(queueTier);
  if ('entries' in schema) return schema.entries as Entries;
  if ('wrapped' in schema) return entriesOf(schema.wrapped);
  if (!('pipe' in schema)) return undefined;
  const [first, ...rest] = schema.pipe as unknown[];
  // The first of a pipe is the pipe itself, without its steps.
  const steps = [...rest, (first as { pipe?: unknown }).pipe ? first : undefined];
  return steps.map(entriesOf).find(entries => entries !== undefined);
}

/** Whole paths of all keys that the schema knows. */
function allPaths(entries = entriesOf(topologySchema)!, parent: string[] = []): string[][] {
  return Object.entries(entries).flatMap(([key, schema]) => {
    const path = [...parent, key];
    const below = entriesOf(schema);
    return below ? [path, ...allPaths(below, path)] : [path];
  });
}

/**
 * The path of the key that was probably meant: spelt alike in the same place, or the same in another.
 * A typing slip changes about a third of a word; beyond that a guess would mislead.
 */
function nearestKey(key: string, parent: string[], known: string[]): string | undefined {
  const word = key.toLowerCase();
  const [nearest] = known
    .map(name => ({ name, changes: changesBetween(word, name.toLowerCase()) }))
    .filter(({ changes }) => changes <= Math.max(1, Math.floor(word.length / 3)))
    .sort((a, b) => a.changes - b.changes);
  if (nearest) return [...parent, nearest.name].join('.');
  return allPaths()
    .find(path => path.at(-1)!.toLowerCase() === word)
    ?.join('.');
}

/** Letters that change places are one slip, not two. */
function changesBetween(one: string, other: string): number {
  const sorted = (word: string) => [...word].sort().join('');
  return one !== other && sorted(one) === sorted(other) ? 1 : distance(one, other);
}

function describe({ path, value, allowed, nearest }: TopologyMistake): string {
  const hint = nearest ? ` Did you mean \`${nearest}\`?` : '';
  const expected = allowed.startsWith('no such key') ? allowed : `expected ${allowed}`;
  return `${path} = ${value}: ${expected}.${hint}`;
}

function isPlainObject(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  // By its own look, not by identity: a config that was loaded in another realm has another Object.
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** PostgreSQL's file has no way to write a line end within a value. */
function isSettingValue(value: unknown): boolean {
  if (typeof value === 'string') return /^[^\0\r\n]*$/.test(value);
  return typeof value === 'boolean' || Number.isFinite(value);
}

function protocolOf(value: string): string {
  return URL.canParse(value) ? new URL(value).protocol : '';
}
