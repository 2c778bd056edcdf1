/** What `banyan status` tells: how a deployment fares at this moment, asked from the units themselves. */

import type { Load } from '../app/database/shards/hot/load.ts';
import { type BalancerStatistics, HaproxyRuntime } from '../engines/haproxy-runtime.ts';
import type { UnitState } from '../machines/unit.ts';
import type { BackupStatus } from './backup/keeper.ts';
import type { CacheStatus } from './cache/status.ts';
import type { CopiesTold } from './database/copies/standing.ts';
import type { DatabaseServer } from './database/standing.ts';
import type { LoadAlert } from './load-alerts.ts';
import type { QueueNodeStatus } from './queue/status.ts';

export interface Status {
  deployment: string;
  /** The application's folder. */
  folder: string;
  /** Where users reach it. */
  address: string;
  /** Process id of the supervisor. */
  supervisor: number;
  /** When it was started, as ISO 8601. */
  since: string;
  /** Epoch of the runtime map in force. */
  epoch: number;
  database: string;
  /** Of a replicated database; undefined for a single server. */
  databaseServers?: DatabaseServer[];
  /** Undefined when no backups are made. */
  backup?: BackupStatus;
  /** Undefined without a cache. */
  cache?: CacheStatus;
  /** RabbitMQ's nodes; undefined without. */
  queue?: QueueNodeStatus[];
  /** Which shards and keys are asked the most, of late; undefined when no process has told. */
  load?: Load;
  /** Which of them take so much that something has to be done, and what. */
  loadAlerts?: LoadAlert[];
  /** How far copied columns are behind; undefined when none are kept. */
  copies?: CopiesTold;
  units: UnitState[];
  /** What the load balancers count, all together; undefined without one. */
  traffic?: Traffic;
}

export interface Traffic {
  /** Requests in the last second. */
  requestRate: number;
  /** Requests that wait since every server is busy. */
  queued: number;
  servers: ServerTraffic[];
}

export interface ServerTraffic {
  name: string;
  /** As the health checks have it: `UP`, `DOWN`, `MAINT`. */
  health: string;
  inFlight: number;
  /** Since the balancer started. */
  requests: number;
  errors5xx: number;
  /** On average over the last thousand. */
  responseMs: number;
}

/** Asks the balancers. One that does not answer is left out: the units' states tell that already. */
export async function trafficOf(runtimeSockets: string[]): Promise<Traffic | undefined> {
  if (runtimeSockets.length === 0) return undefined;
  const answers = await Promise.all(
    runtimeSockets.map(socket =>
      new HaproxyRuntime(socket).statistics().catch((): undefined => undefined),
    ),
  );
  const statistics = answers.filter(answer => answer !== undefined);
  return {
    requestRate: sum(statistics, ({ requestRate }) => requestRate),
    queued: sum(statistics, ({ queued }) => queued),
    servers: mergeServers(statistics),
  };
}

/** Each balancer counts its own requests; a server's health is what the worst of them sees. */
function mergeServers(statistics: BalancerStatistics[]): ServerTraffic[] {
  const merged = new Map<string, ServerTraffic>();
  for (const server of statistics.flatMap(({ servers }) => servers)) {
    const { name, status, current, total, errors5xx, responseMs } = server;
    const before = merged.get(name);
    merged.set(name, {
      name,
      health: before && !/^UP/.test(before.health) ? before.health : status,
      inFlight: (before?.inFlight ?? 0) + current,
      requests: (before?.requests ?? 0) + total,
      errors5xx: (before?.errors5xx ?? 0) + errors5xx,
      responseMs: Math.max(before?.responseMs ?? 0, responseMs),
    });
  }
  return [...merged.values()];
}

function sum<T>(list: T[], amount: (item: T) => number): number {
  return list.reduce((total, item) => total + amount(item), 0);
}
