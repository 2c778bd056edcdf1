/** Where the queue's messages are to be kept. Plain data, kept in the catalog and in the journal; no secret is in it. */
import type { CompleteQueue } from '../../topology/complete.ts';
import { credentialsOf } from '../cache/shape.ts';

export interface QueueShape {
  /** `postgresql`: in the application's database. `external`: in a RabbitMQ that Banyan does not run. */
  kind: 'postgresql' | 'rabbitmq' | 'external';
  /** RabbitMQ's nodes. */
  servers: number;
  memoryMb: number;
  freeDiskMb: number;
  external?: { host: string; port: number; tls: boolean; credentials: string };
}

/** Where the catalog keeps the shape that was last reached. */
export const QUEUE_SHAPE = 'queue.shape';

export const IN_POSTGRESQL: QueueShape = {
  kind: 'postgresql',
  servers: 0,
  memoryMb: 0,
  freeDiskMb: 0,
};

/** The shape that the topology asks for. */
export function queueShapeOf(queue: CompleteQueue | undefined): QueueShape {
  if (!queue) return IN_POSTGRESQL;
  const { servers, memoryMb, freeDiskMb, url } = queue;
  if (!url) return { kind: 'rabbitmq', servers, memoryMb, freeDiskMb };
  const { protocol, hostname, port } = new URL(url);
  const tls = protocol === 'amqps:';
  return {
    ...IN_POSTGRESQL,
    kind: 'external',
    external: {
      host: hostname,
      port: Number(port || (tls ? 5671 : 5672)),
      tls,
      credentials: credentialsOf(url),
    },
  };
}

/** How a shape is called: `a RabbitMQ cluster of 3`. */
export function describeQueue({ kind, servers, external }: QueueShape): string {
  switch (kind) {
    case 'postgresql':
      return 'in PostgreSQL';
    case 'rabbitmq':
      return servers === 1 ? 'one RabbitMQ' : `a RabbitMQ cluster of ${servers}`;
    case 'external':
      return `the RabbitMQ at ${external?.host}:${external?.port}`;
  }
}
