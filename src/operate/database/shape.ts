/**
 * What the database tier should be. Plain data, kept in the catalog and in the journal as the web tier's shape is.
 */
import { createHash } from 'node:crypto';
import type { ClusterSettings } from '../../engines/patroni-config.ts';
import type { CompleteTopology } from '../../topology/defaults.ts';

export type DatabaseShape = { kind: 'external' } | { kind: 'embedded' } | ClusterShape;

/** A primary and its replicas. */
export interface ClusterShape {
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
  if (database.replicas === 0) return { kind: 'embedded' };
  return {
    kind: 'cluster',
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

/** Changes when a server would run differently. */
export function settingsRevision(settings: ClusterSettings): string {
  const sorted = (_key: string, value: unknown) =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value;
  return createHash('sha256').update(JSON.stringify(settings, sorted)).digest('hex').slice(0, 8);
}
