/** Steps in words: what is done, what traffic notices, how it is taken back. Pure. */
import type { ExplainedStep } from '../web/explain.ts';
import type { WorkerStep } from './plan.ts';

const NOTHING = 'nothing';

export function explainWorkers(step: WorkerStep): ExplainedStep {
  switch (step.do) {
    case 'share-connections':
      return {
        mark: '~',
        what: `share out the database's connections among ${step.servers} ${step.servers === 1 ? 'server' : 'servers'}`,
        traffic: NOTHING,
        undo: 'shared out again',
      };
    case 'start-worker':
      return {
        mark: '+',
        what: `start ${step.name}`,
        traffic: 'it takes its part of the messages',
        undo: `stop ${step.name}`,
      };
    case 'stop-workers':
      return {
        mark: '-',
        what: `stop ${step.names.join(', ')} when the jobs in hand are done`,
        traffic: 'what is not done in time is handed back, and done by another',
        undo: step.names.length === 1 ? 'start another' : 'start others',
      };
    case 'start-worker-autoscaler':
      return {
        mark: '+',
        what: 'let an autoscaler watch over the number of workers',
        traffic: NOTHING,
        undo: 'stop it',
      };
    case 'stop-worker-autoscaler':
      return {
        mark: '-',
        what: 'stop the autoscaler of the workers',
        traffic: NOTHING,
        undo: 'start it again',
      };
  }
}
