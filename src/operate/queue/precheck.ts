/** What can be found out of the queue before anything is touched. */
import { findRabbitMq } from '../../engines/rabbitmq.ts';
import type { QueueShape } from './shape.ts';

/** @throws RabbitMqMissing */
export function precheckQueue({ kind }: QueueShape): void {
  if (kind !== 'rabbitmq') return;
  for (const program of ['rabbitmq-server', 'rabbitmqctl', 'rabbitmq-queues'])
    findRabbitMq(program);
}
