/**
 * The runtime map: all that an application process needs to know of the world.
 *
 * Holds true here:
 * - The operator's half writes it, the application's half reads and watches it; it is the only
 *   thing that passes between the two.
 * - It carries no secret. Credentials travel in the environment (`DATABASE_URL`).
 * - `epoch` rises with every change, so two maps are ordered whatever the clocks say.
 * - `format` rises only when an old reader would misread a new map; new optional keys do not.
 *
 * Glossary: a *member* is one database server; a *shard* is the members that hold the same rows
 * (rung 1 has one shard with one member). With several shards, each owns a *range* of hashes; a *sharded* table
 * has its rows by the hash of its *shard key*, a *reference* table is whole on every shard, and a table that is
 * not named is whole on the first.
 */
import * as v from 'valibot';
import { BanyanError } from '../errors.ts';

export const MAP_FORMAT = 1;

const port = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(65_535));

const memberSchema = v.object({
  /** Host name or address. */
  host: v.pipe(v.string(), v.nonEmpty()),
  port,
  dataCentre: v.string(),
});

/** One that lasts longer is an outage: a request is not held for longer either. */
const MAX_HOLD_MS = 60_000;

/** A signed 64-bit number in decimal: JSON's numbers are too small for it. */
const hash = v.pipe(v.string(), v.regex(/^-?\d{1,19}$/));

const shardSchema = v.object({
  id: v.string(),
  /** The hashes whose rows it owns, both ends included. Missing with a single shard: all. */
  range: v.optional(v.object({ from: hash, to: hash })),
  /** In any order: which of them is the primary, the members say themselves. */
  members: v.pipe(v.array(memberSchema), v.minLength(1)),
  /**
   * For a planned change of the primary. Send nothing new to the primary for at most `forMs` from when
   * this map is first seen, and close the connections to it as they become idle; then, or with a map
   * without it, go on. A hold of the same `id` is the same hold. What a replica may serve is not held.
   */
  hold: v.optional(
    v.object({
      id: v.pipe(v.string(), v.nonEmpty()),
      /** In milliseconds. */
      forMs: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(MAX_HOLD_MS)),
    }),
  ),
});

const tableSchema = v.variant('kind', [
  /** Its rows are where the hash of `key`, a column of its primary key, says. */
  v.object({ kind: v.literal('sharded'), key: v.pipe(v.string(), v.nonEmpty()) }),
  /** All of it is on every shard. */
  v.object({ kind: v.literal('reference') }),
]);

const copySchema = v.object({
  /** `schema.table.column` */
  from: v.string(),
  /** The column beside the copy that has the primary key of the row that is copied from. */
  via: v.string(),
});

const addressSchema = v.object({ host: v.pipe(v.string(), v.nonEmpty()), port });

/** Where what the database's log tells is told on; see app/cache/README.md. */
const cacheSchema = v.object({
  /** A part of every key: another one is another store, and a cold one. */
  generation: v.pipe(v.string(), v.regex(/^[a-z0-9-]{1,40}$/)),
  /** Null: each process's own memory alone. Name and password are in the environment. */
  redis: v.nullable(
    v.object({
      mode: v.picklist(['single', 'cluster']),
      /** Of a cluster some are enough: they know the others. */
      nodes: v.pipe(v.array(addressSchema), v.minLength(1)),
      buckets: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(1_024)),
      tls: v.optional(v.boolean()),
    }),
  ),
  feeds: v.array(
    v.object({
      /** Ids of shards. */
      clusters: v.array(v.string()),
      /** Of invalidators: one of them serves, the others stand by. */
      addresses: v.pipe(
        v.array(v.union([v.object({ path: v.pipe(v.string(), v.nonEmpty()) }), addressSchema])),
        v.minLength(1),
      ),
    }),
  ),
});

/** Where messages are published that are not part of a transaction; see app/queue/rabbitmq/README.md. */
const queueSchema = v.object({
  rabbitmq: v.object({
    /** Any of them will do. Name and password are in the environment. */
    nodes: v.pipe(v.array(addressSchema), v.minLength(1)),
    tls: v.optional(v.boolean()),
    /** Nothing is published to it any more; what is in it is still done. */
    draining: v.optional(v.boolean()),
  }),
});

export const runtimeMapSchema = v.object({
  format: v.literal(MAP_FORMAT),
  /** The deployment's name. */
  deployment: v.string(),
  /** Rises by at least one with every change. */
  epoch: v.pipe(v.number(), v.safeInteger(), v.minValue(1)),
  /** The data centre of the machine that this copy of the map lies on. */
  dataCentre: v.string(),
  database: v.object({
    /** The database's name on every member. */
    name: v.string(),
    shards: v.pipe(v.array(shardSchema), v.minLength(1)),
    /** How tables are spread over the shards: by `schema.table`. */
    tables: v.optional(v.record(v.string(), tableSchema)),
    /** Columns whose values are unique across all shards: `schema.table.column`. */
    unique: v.optional(v.array(v.string())),
    /** Those of them whose values are being gathered, or given up: writers keep them, reads do not go by them. */
    uniqueFilling: v.optional(v.array(v.string())),
    /** Columns that are kept as copies of others, by `schema.table.column`. */
    denormalize: v.optional(v.record(v.string(), copySchema)),
    /** The most connections that one web server may hold, so that all together never take the last. */
    connectionsPerServer: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1))),
  }),
  /** Missing: nothing tells what changes in the database, so nothing that was read from it may be cached. */
  cache: v.optional(cacheSchema),
  /** Missing: all messages are in the database. */
  queue: v.optional(queueSchema),
  assets: v.object({
    /** Put before the path of a static file: empty, or the origin of an edge. */
    baseUrl: v.string(),
  }),
});

export type RuntimeMap = v.InferOutput<typeof runtimeMapSchema>;
export type Member = v.InferOutput<typeof memberSchema>;
export type Shard = v.InferOutput<typeof shardSchema>;
export type TablePlacement = v.InferOutput<typeof tableSchema>;
export type CopiedColumn = v.InferOutput<typeof copySchema>;
export type CacheMap = v.InferOutput<typeof cacheSchema>;
export type QueueMap = v.InferOutput<typeof queueSchema>;
export type FeedAddress = CacheMap['feeds'][number]['addresses'][number];
export type Hold = NonNullable<Shard['hold']>;

/** The map was there and could not be understood: damaged, or of another version of Banyan. */
export class InvalidRuntimeMap extends BanyanError {
  constructor(where: string, reason: string, cause?: unknown) {
    super('INVALID_RUNTIME_MAP', {
      what: `The runtime map cannot be used: ${reason}`,
      where,
      remedy: 'Run `banyan up` again: it writes the map anew',
      cause,
    });
  }
}

/** There is no map where an application process was told to look. */
export class RuntimeMapMissing extends BanyanError {
  constructor(where: string, cause: unknown) {
    super('RUNTIME_MAP_MISSING', {
      what: 'The runtime map that this process was told to follow is not there',
      where,
      remedy:
        'Run `banyan up`, which writes it and starts the application; to run without Banyan, leave BANYAN_MAP unset',
      cause,
    });
  }
}

/**
 * Parses the text of a map.
 * @param where the file's path, for the error
 * @throws InvalidRuntimeMap
 */
export function parseRuntimeMap(text: string, where: string): RuntimeMap {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new InvalidRuntimeMap(where, 'it is not JSON', error);
  }
  const format = (json as { format?: unknown } | null)?.format;
  if (typeof format === 'number' && format > MAP_FORMAT) {
    throw new InvalidRuntimeMap(
      where,
      `it has format ${format}, and this version of Banyan reads ${MAP_FORMAT}`,
    );
  }
  const result = v.safeParse(runtimeMapSchema, json);
  if (!result.success) {
    const issue = result.issues[0];
    throw new InvalidRuntimeMap(where, `${v.getDotPath(issue) ?? 'the whole'}: ${issue.message}`);
  }
  return result.output;
}
