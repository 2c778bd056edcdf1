/** The cache tier's steps in words. Pure. */
import type { ExplainedStep } from '../web/explain.ts';
import type { CacheStep } from './plan.ts';

const NOTHING = 'nothing';

export function explainCache(step: CacheStep): ExplainedStep {
  switch (step.do) {
    case 'start-invalidator':
      return {
        mark: '+',
        what: `start ${step.name}, which tells the caches what changes in the database`,
        traffic: NOTHING,
        undo: 'stop it',
      };
    case 'stop-invalidator':
      return {
        mark: '-',
        what: `stop ${step.name}`,
        traffic: 'caches are empty until another tells them what changes, if none stands by',
        undo: 'start it again',
      };
    case 'start-redis':
      return {
        mark: '+',
        what: `start ${step.name}, ${step.mode === 'single' ? 'a Redis' : 'a node for the Redis Cluster'}`,
        traffic: NOTHING,
        undo: 'stop it',
      };
    case 'arrange-redis':
      return {
        mark: '~',
        what: `give the ${step.masters} parts of the Redis Cluster equal shares of the slots${step.leaving.length > 0 ? `, and ${step.leaving.join(', ')} none` : ''}`,
        traffic: 'slots move empty: what was in those is loaded from the database once',
        undo: 'the shares that they had',
      };
    case 'resize-redis':
      return {
        mark: '~',
        what: `let ${step.names.join(', ')} have ${step.memoryMb} MB of memory`,
        traffic: 'with less, what was not used for the longest goes',
        undo: 'the memory that they had',
      };
    case 'publish-cache':
      return {
        mark: '~',
        what:
          step.to === 'none'
            ? 'tell the servers that there is no cache any more'
            : step.to === 'memory'
              ? 'tell the servers to cache in their own memory alone'
              : step.names.length > 0
                ? `tell the servers that the cache is ${step.names.join(', ')}`
                : 'tell the servers where the cache is',
        traffic:
          step.to === 'none' || step.to === 'memory'
            ? 'what the servers share is gone; results are loaded from the database'
            : 'a store that is new begins cold: results are loaded from the database once',
        undo: 'tell them what was before',
      };
    case 'stop-redis':
      return { mark: '-', what: `stop ${step.name}`, traffic: NOTHING, undo: 'start another' };
    case 'keep-slot':
      return {
        mark: '~',
        what: "let every database server keep the invalidator's place in the log",
        traffic: 'each replica restarts once; reads go to the other servers for that second',
        undo: 'only the primary keeps it',
      };
    case 'stop-following':
      return {
        mark: '-',
        what: 'take away what the invalidator had in the database: slot, publication, trigger',
        traffic: NOTHING,
        undo: 'they are made again',
      };
  }
}
