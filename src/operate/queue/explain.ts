/** Steps in words: what is done, what traffic notices, how it is taken back. Pure. */
import type { ExplainedStep } from '../web/explain.ts';
import type { QueueStep } from './plan.ts';

const NOTHING = 'nothing';

export function explainQueue(step: QueueStep): ExplainedStep {
  switch (step.do) {
    case 'start-epmd':
      return {
        mark: '+',
        what: 'start epmd, where the nodes of RabbitMQ find each other',
        traffic: NOTHING,
        undo: 'stop it',
      };
    case 'start-rabbitmq':
      return {
        mark: '+',
        what: `start ${step.names.join(', ')}`,
        traffic: NOTHING,
        undo: `stop ${step.names.join(', ')}`,
      };
    case 'spread-queues':
      return {
        mark: '~',
        what: `give each queue a copy on ${step.names.join(', ')}`,
        traffic: 'what is confirmed from now on is on a majority of them',
        undo: 'the copies that there were',
      };
    case 'publish-queue':
      return {
        mark: '~',
        what:
          step.to === 'postgresql'
            ? 'publish to PostgreSQL'
            : step.to === 'external'
              ? 'publish to the RabbitMQ that the topology names'
              : `publish to ${step.names.join(', ')}`,
        traffic: 'messages that were published before are still done',
        undo: 'publish where it was',
      };
    case 'leave-rabbitmq':
      return {
        mark: '-',
        what: step.last
          ? `stop ${step.name} when it has no message left`
          : `take the copies from ${step.name}, and stop it`,
        traffic: NOTHING,
        undo: `start ${step.name}, empty`,
      };
    case 'stop-epmd':
      return { mark: '-', what: 'stop epmd', traffic: NOTHING, undo: 'start it' };
  }
}
