/** A node of RabbitMQ in words: for `banyan status` and `banyan queue`. */
import pc from 'picocolors';
import type { QueueNodeStatus } from '../operate/queue/status.ts';

/** The first line, and the alarm if there is one. */
export function describeQueueNode(node: QueueNodeStatus): string[] {
  const { name, usedMb, maxMb, bundles } = node;
  return [
    pc.dim(`  ${name}: ${usedMb} of ${maxMb} MB, ${bundles} bundles of messages`),
    ...describeQueueAlarm(node),
  ];
}

/** Nothing when all is well. */
export function describeQueueAlarm(node: QueueNodeStatus): string[] {
  const { name, usedMb, maxMb, freeDiskMb, leastDiskMb, alarm } = node;
  if (!alarm) return [];
  const why =
    alarm === 'memory'
      ? `its memory is full (${usedMb} of ${maxMb} MB)`
      : `only ${freeDiskMb} MB are free on its disk, and it wants ${leastDiskMb}`;
  return [
    pc.yellow(
      `  ${name}: ${why}, so RabbitMQ takes no messages, and they go to PostgreSQL meanwhile; nothing is lost. Let workers empty it, or give it more`,
    ),
  ];
}
