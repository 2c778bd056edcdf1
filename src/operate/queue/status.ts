/** How RabbitMQ's nodes fare, asked from themselves: for `banyan status`. */
import type { RabbitMqNode } from '../../engines/rabbitmq.ts';
import { get } from '../../machines/http.ts';
import type { UnitState } from '../../machines/unit.ts';
import { rabbitMqNodes } from './context.ts';

/** Less than a command waits for the supervisor's answer, which has this in it. */
const ANSWER_MS = 1_500;

export interface QueueNodeStatus {
  name: string;
  usedMb: number;
  maxMb: number;
  freeDiskMb: number;
  leastDiskMb: number;
  /** Of messages, in all of its queues, those in some worker's hand among them. */
  bundles: number;
  /** Why publishers are made to wait; undefined when they are not. */
  alarm: 'memory' | 'disk' | undefined;
}

/** Who does not answer is left out. Undefined without nodes. */
export async function queueStatus(
  units: readonly UnitState[],
): Promise<QueueNodeStatus[] | undefined> {
  const nodes = rabbitMqNodes(units.filter(({ phase }) => phase === 'ready'));
  if (nodes.length === 0) return undefined;
  const asked = await Promise.all(nodes.map(node => nodeStatus(node).catch(() => undefined)));
  return asked.filter(each => each !== undefined);
}

async function nodeStatus({ name, host, metricsPort }: RabbitMqNode): Promise<QueueNodeStatus> {
  const figures = parseMetrics(await read(host, metricsPort));
  const figure = (key: string) => figures.get(`rabbitmq_${key}`) ?? 0;
  const megabytes = (key: string) => Math.round(figure(key) / 1024 / 1024);
  return {
    name,
    usedMb: megabytes('process_resident_memory_bytes'),
    maxMb: megabytes('resident_memory_limit_bytes'),
    freeDiskMb: megabytes('disk_space_available_bytes'),
    leastDiskMb: megabytes('disk_space_available_limit_bytes'),
    bundles: figure('queue_messages'),
    alarm: figure('alarms_memory_used_watermark')
      ? 'memory'
      : figure('alarms_free_disk_space_watermark')
        ? 'disk'
        : undefined,
  };
}

/** Values without labels of Prometheus' text format, by name. Pure. */
export function parseMetrics(text: string): Map<string, number> {
  const found = new Map<string, number>();
  for (const line of text.split('\n')) {
    const [, name, value] = /^(\w+) (-?[\d.e+]+)$/i.exec(line) ?? [];
    if (name !== undefined) found.set(name, Number(value));
  }
  return found;
}

function read(host: string, port: number): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const signal = AbortSignal.timeout(ANSWER_MS);
  const request = get({ host, port, path: '/metrics', agent: false, signal }, response => {
    let text = '';
    response.setEncoding('utf8');
    response.on('data', chunk => {
      text += chunk;
    });
    response.on('end', () => resolve(text));
    response.on('error', reject);
  });
  request.on('error', reject);
  return promise;
}
