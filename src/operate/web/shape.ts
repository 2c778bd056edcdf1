/**
 * What the web tier should be. Plain data: it is kept in the catalog and in the journal of operations, so
 * that an operation can be resumed or undone whatever became of the configuration since.
 */
import { createHash } from 'node:crypto';
import type { CompleteBalancer, CompleteTopology } from '../../topology/complete.ts';
import { balancerWithDefaults } from '../../topology/defaults.ts';
import { credentialsOf } from '../cache/shape.ts';
import type { DesiredWeb } from './plan.ts';

export interface WebShape {
  /** How many servers. */
  servers: number;
  /** The release that they run; 0 is the application's folder as it is. */
  release: number;
  web: CompleteTopology['web'];
  balancer?: CompleteBalancer;
  /** Changes with the credentials of a Redis that Banyan does not run, which servers are given at their start. */
  cacheCredentials?: string;
  /** The same of a RabbitMQ. */
  queueCredentials?: string;
  /** What the shares of the database's connections follow from. */
  maxConnections: number;
}

/** Where the catalog keeps the shape that was last reached. */
export const WEB_SHAPE = 'web.shape';

const WEIGHT = 100;

/**
 * The shape that the topology asks for, as near to `present` as its bounds allow: a number between bounds
 * stays, and so does the release.
 * @param servers as many as that, whatever the bounds
 * @param maxConnections that the database really allows
 */
export function shapeOf(
  topology: CompleteTopology,
  present?: WebShape,
  servers = withinBounds(topology.web.servers, present?.servers),
  maxConnections = present?.maxConnections ?? topology.database.maxConnections,
): WebShape {
  const { web } = topology;
  // Several servers need a balancer, whether the configuration names one or not.
  const balancer =
    topology.balancer ?? (servers > 1 ? balancerWithDefaults({}, web.host) : undefined);
  return {
    servers,
    release: present?.release ?? 0,
    web,
    ...(balancer ? { balancer } : {}),
    ...(topology.cache?.url ? { cacheCredentials: credentialsOf(topology.cache.url) } : {}),
    ...(topology.queue?.url ? { queueCredentials: credentialsOf(topology.queue.url) } : {}),
    maxConnections,
  };
}

/** As near to `present` as the bounds allow. */
export function withinBounds({ min, max }: { min: number; max: number }, present = min): number {
  return Math.min(max, Math.max(min, present));
}

/** What the plan works towards. Pure. */
export function desiredWeb(shape: WebShape): DesiredWeb {
  const { servers, release, web, balancer, cacheCredentials, queueCredentials } = shape;
  return {
    release,
    revision: serverRevision(web, cacheCredentials, queueCredentials),
    weights: Array.from({ length: servers }, (_, index) => web.weights[index] ?? WEIGHT),
    balancers: balancer?.addresses.map(host => frontOf(host, balancer.tls?.port)) ?? [],
    balancerRevision: balancer
      ? hash([balancer, web.sticky, web.maxConcurrency, web.ready, web.drainTimeoutMs])
      : '',
    autoscaled: web.servers.min < web.servers.max,
  };
}

/** The sockets that a balancer serves, as text: one that needs others is another balancer. */
export function frontOf(host: string, tlsPort: number | undefined): string {
  return tlsPort === undefined ? host : `${host} tls ${tlsPort}`;
}

/** The address in it. */
export function hostOf(front: string): string {
  return front.split(' ', 1)[0]!;
}

export function hasTls(front: string): boolean {
  return front.includes(' tls ');
}

/** Changes when a server would run differently: then servers are replaced. */
function serverRevision(
  { command, host, ready, env, drainTimeoutMs }: WebShape['web'],
  ...credentials: (string | undefined)[]
): string {
  return hash([command, host, ready, env, drainTimeoutMs, ...credentials.filter(Boolean)]);
}

/** The same for the same content: a value that was in the catalog comes back with its keys in another order. */
export function hash(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value, sortKeys)).digest('hex').slice(0, 8);
}

function sortKeys(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}
