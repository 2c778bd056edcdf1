/**
 * What the database tier should be. Plain data, kept in the catalog and in the journal as the web tier's shape is.
 */
import { createHash } from 'node:crypto';
import type { ClusterSettings } from '../../engines/patroni-config.ts';
import type { CompleteTopology } from '../../topology/complete.ts';
import type { Sharding } from './record.ts';

export type DatabaseShape = { kind: 'external' } | ({ kind: 'embedded' } & Sharded) | ClusterShape;

interface Sharded {
  /** How many databases the rows are spread over; each is of that kind. Missing: one. */
  shards?: number;
  /** How they are spread. Missing: as nothing was declared. */
  declaration?: ShardDeclaration;
}

export type ShardDeclaration = Omit<Sharding, 'ranges'>;

/** A primary and its replicas. */
export interface ClusterShape extends Sharded {
  kind: 'cluster';
  replicas: number;
  etcd: number;
  settings: ClusterSettings;
  /** Who should be the primary; undefined: whoever is. */
  primary?: string;
  /** Nodes that others are to take the place of. */
  retired?: string[];
  /** Servers that were started before this moment are to be started anew; ISO 8601. */
  startedAfter?: string;
}

/** Where the catalog keeps the shape that was last reached. */
export const DATABASE_SHAPE = 'database.shape';

/** The shape that the topology asks for. */
export function databaseShapeOf({ database }: CompleteTopology): DatabaseShape {
  if (database.url) return { kind: 'external' };
  const sharded = shardedShape(database.shards, database);
  if (database.replicas === 0) return { kind: 'embedded', ...sharded };
  return {
    kind: 'cluster',
    ...sharded,
    replicas: database.replicas,
    etcd: database.etcd,
    settings: {
      memoryMb: database.memoryMb,
      maxConnections: database.maxConnections,
      strict: database.strict,
      extra: database.settings,
      ...(database.backup ? { backup: database.backup } : {}),
    },
  };
}

/** Says nothing where nothing is said, so that shapes of old compare as equal. */
export function shardedShape(
  shards: number,
  { tables, unique, denormalize = {} }: ShardDeclaration,
): Sharded {
  const hasCopies = Object.keys(denormalize).length > 0;
  const isDeclared = Object.keys(tables).length > 0 || hasCopies;
  const declaration = { tables, unique, ...(hasCopies ? { denormalize } : {}) };
  return {
    ...(shards > 1 ? { shards } : {}),
    ...(isDeclared ? { declaration } : {}),
  };
}

/** The shape with what is written down of how the rows are spread. */
export function withSharding(shape: DatabaseShape, sharding: Sharding | undefined): DatabaseShape {
  if (shape.kind === 'external' || !sharding) return shape;
  const { shards: _shards, declaration: _declaration, ...rest } = shape;
  return { ...rest, ...shardedShape(sharding.ranges.length, sharding) };
}

/** Changes when a server would run differently. */
export function settingsRevision(settings: ClusterSettings): string {
  const sorted = (_key: string, value: unknown) =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value;
  return createHash('sha256').update(JSON.stringify(settings, sorted)).digest('hex').slice(0, 8);
}
