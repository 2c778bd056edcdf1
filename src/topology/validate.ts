/**
 * Checks a topology at run time and reports every mistake at once, before anything is touched.
 *
 * The schema mirrors the types in `topology.ts`; `Mirrors` below makes the compiler refuse a build
 * in which the two differ.
 */
import { closest, distance } from 'fastest-levenshtein';
import * as v from 'valibot';
import { BanyanError } from '../errors.ts';
import type { Topology } from './topology.ts';

/** Environment variables that Banyan sets for an application; an `env` entry may not contradict it. */
const OWN_VARIABLES = [
  'PORT',
  'HOST',
  'DATABASE_URL',
  'BANYAN_MAP',
  'BANYAN_SECRET',
  'BANYAN_UNIT',
];

/** Settings that Banyan's promises rest on, and those that it derives from the topology. */
const OWN_SETTINGS = [
  'port',
  'listen_addresses',
  'unix_socket_directories',
  'data_directory',
  'hba_file',
  'fsync',
  'full_page_writes',
  'synchronous_commit',
  'wal_level',
  'password_encryption',
  'max_connections',
];

const text = v.pipe(v.string('text'), v.trim(), v.nonEmpty('text that is not empty'));
const whole = (min: number, max: number) => {
  const allowed = `a whole number from ${min} to ${max}`;
  return v.pipe(
    v.number(allowed),
    v.integer(allowed),
    v.minValue(min, allowed),
    v.maxValue(max, allowed),
  );
};
const port = whole(0, 65_535);
const timeoutMs = whole(1, 3_600_000);

const path = v.pipe(text, v.startsWith('/', 'a path that starts with /'));

const databaseUrl = v.pipe(
  text,
  v.check(
    value => /^postgres(ql)?:$/.test(protocolOf(value)),
    'a URL such as postgres://user:password@host:5432/name',
  ),
);

const setting = v.union([v.string(), v.number(), v.boolean()], 'text, a number, true or false');

const SERVERS_RULE = `a whole number from 1 to 1000, or { min, max } with 1 ≤ min ≤ max`;
const servers = v.union(
  [
    whole(1, 1_000),
    v.pipe(
      v.strictObject({
        min: whole(1, 1_000),
        max: whole(1, 1_000),
        target: v.optional(v.pipe(v.number(), v.minValue(0.05), v.maxValue(1))),
      }),
      v.check(({ min, max }) => min <= max),
    ),
  ],
  SERVERS_RULE,
);

const NAME_RULE = 'lower-case letters, digits and dashes, starting with a letter, 40 at most';

const topologySchema = v.strictObject({
  name: v.optional(v.pipe(text, v.regex(/^[a-z][a-z0-9-]{0,39}$/, NAME_RULE))),
  web: v.optional(
    v.strictObject({
      command: v.optional(text),
      port: v.optional(port),
      host: v.optional(text),
      ready: v.optional(path),
      startTimeoutMs: v.optional(timeoutMs),
      drainTimeoutMs: v.optional(timeoutMs),
      env: v.optional(v.record(notOneOf(OWN_VARIABLES, 'a variable'), v.string('text'))),
      servers: v.optional(servers),
      weights: v.optional(v.array(whole(1, 256), 'a list of numbers')),
      maxConcurrency: v.optional(whole(1, 10_000)),
      sticky: v.optional(v.boolean('true or false')),
      build: v.optional(text),
    }),
  ),
  balancer: v.optional(
    v.pipe(
      v.strictObject({
        algorithm: v.optional(
          v.picklist(['roundrobin', 'leastconn'], '"roundrobin" or "leastconn"'),
        ),
        addresses: v.optional(
          v.pipe(v.array(text, 'a list of addresses'), v.minLength(1, 'at least one address')),
        ),
        virtualAddress: v.optional(text),
        tls: v.optional(
          v.strictObject({
            port: v.optional(port),
            certificate: v.optional(text),
            redirect: v.optional(v.boolean('true or false')),
          }),
        ),
        rateLimit: v.optional(
          v.strictObject({
            requests: whole(1, 1_000_000),
            windowSeconds: v.optional(whole(1, 3_600)),
          }),
        ),
        maxBodyMb: v.optional(whole(1, 100_000)),
        responseTimeoutMs: v.optional(timeoutMs),
        queueTimeoutMs: v.optional(timeoutMs),
        tunnelTimeoutMs: v.optional(whole(1, 86_400_000)),
      }),
      v.check(
        ({ virtualAddress, addresses = [] }) =>
          virtualAddress === undefined || addresses.length >= 2,
        'two `addresses` for a `virtualAddress` to move between',
      ),
    ),
  ),
  database: v.optional(
    v.pipe(
      v.strictObject({
        url: v.optional(databaseUrl),
        port: v.optional(port),
        migrations: v.optional(text),
        migrate: v.optional(text),
        memoryMb: v.optional(whole(64, 4_194_304)),
        maxConnections: v.optional(whole(10, 10_000)),
        settings: v.optional(v.record(notOneOf(OWN_SETTINGS, 'a setting'), setting)),
      }),
      v.check(
        tier => !(tier.migrations && tier.migrate),
        'either `migrations` (a folder) or `migrate` (a command), not both',
      ),
    ),
  ),
  logs: v.optional(
    v.strictObject({
      maxFileMb: v.optional(whole(1, 10_000)),
      keepFiles: v.optional(whole(1, 1_000)),
    }),
  ),
});

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
  /** The known key that was probably meant, for an unknown one. */
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
  const result = v.safeParse(topologySchema, input);
  if (result.success) return result.output;
  throw new InvalidTopology(file, result.issues.map(toMistake));
}

function toMistake(issue: v.BaseIssue<unknown>): TopologyMistake {
  const path = v.getDotPath(issue) ?? '(the whole)';
  if (issue.type === 'strict_object' && issue.expected === 'never') {
    const known = keysAt(issue.path ?? []);
    const key = String(issue.path?.at(-1)?.key);
    const nearest = nearestKey(key, known);
    return {
      path,
      value: show(path, issue.path?.at(-1)?.value),
      allowed: `no such key; known here: ${known.join(', ')}`,
      ...(nearest ? { nearest: path.slice(0, path.length - key.length) + nearest } : {}),
    };
  }
  const allowed =
    issue.type === 'strict_object' ? 'an object { … }' : issue.message.replace(/^Invalid.*?: /, '');
  return { path, value: show(path, issue.input), allowed };
}

/** The keys that the schema knows in the object that holds the last key of `issuePath`. */
function keysAt(issuePath: readonly { key?: unknown }[]): string[] {
  let entries: Record<string, unknown> = topologySchema.entries;
  for (const { key } of issuePath.slice(0, -1)) {
    entries = entriesOf(entries[String(key)]) ?? entries;
  }
  return Object.keys(entries);
}

function entriesOf(schema: unknown): Record<string, unknown> | undefined {
  if (typeof schema !== 'object' || schema === null) return undefined;
  if ('entries' in schema) return schema.entries as Record<string, unknown>;
  return 'wrapped' in schema ? entriesOf(schema.wrapped) : undefined;
}

/** A typing slip changes about a third of a word; beyond that a guess would mislead. */
function nearestKey(key: string, known: string[]): string | undefined {
  if (known.length === 0) return undefined;
  const nearest = closest(key.toLowerCase(), known);
  return distance(key.toLowerCase(), nearest.toLowerCase()) <= Math.max(2, key.length / 3)
    ? nearest
    : undefined;
}

function describe({ path, value, allowed, nearest }: TopologyMistake): string {
  const hint = nearest ? ` Did you mean \`${nearest}\`?` : '';
  return `${path} = ${value}: expected ${allowed}.${hint}`.replace('expected no such', 'no such');
}

/** A database URL has a password in it: it is never shown. */
function show(path: string, value: unknown): string {
  if (path === 'database.url' && typeof value === 'string') return '"…"';
  if (typeof value === 'function') return 'a function';
  const json = JSON.stringify(value) ?? String(value);
  return json.length > 80 ? `${json.slice(0, 77)}…` : json;
}

function notOneOf(names: string[], kind: string) {
  return v.pipe(
    v.string(),
    v.check(
      name => !names.includes(name),
      issue => `${kind} other than ${String(issue.input)}, which Banyan sets itself`,
    ),
  );
}

function protocolOf(value: string): string {
  return URL.canParse(value) ? new URL(value).protocol : '';
}
