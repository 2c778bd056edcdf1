/** The database tier's steps in words. Pure. */
import type { ExplainedStep } from '../web/explain.ts';
import type { DatabaseStep } from './plan.ts';

const NOTHING = 'nothing';

export function explainDatabase(step: DatabaseStep): ExplainedStep {
  switch (step.do) {
    case 'start-etcd':
      return {
        mark: '+',
        what: `start ${step.names.join(', ')}, where the servers agree on who is the primary`,
        traffic: NOTHING,
        undo: 'stop it',
      };
    case 'stop-etcd':
      return {
        mark: '-',
        what: `stop ${step.names.join(', ')} and delete what they had`,
        traffic: NOTHING,
        undo: 'start them again',
      };
    case 'start-node':
      return {
        mark: '+',
        what: `start ${step.name} and let it copy the database`,
        traffic: 'the primary reads and sends its files once',
        undo: `remove ${step.name}`,
      };
    case 'add-member':
      return {
        mark: '~',
        what: `let ${step.name} answer reads`,
        traffic: 'reads are spread over one more server',
        undo: `let ${step.name} answer no reads`,
      };
    case 'drop-member':
      return {
        mark: '~',
        what: `let ${step.name} answer no more reads`,
        traffic: 'reads are spread over one server less; those under way come to their end',
        undo: `let ${step.name} answer reads again`,
      };
    case 'remove-node':
      return {
        mark: '-',
        what: `stop ${step.name} and delete its copy`,
        traffic: NOTHING,
        undo: 'start another, which copies the database again',
      };
    case 'configure':
      return {
        mark: '~',
        what: 'give all database servers their new settings',
        traffic: NOTHING,
        undo: 'the settings that they had',
      };
    case 'restart-nodes':
      return {
        mark: '~',
        what:
          step.why === 'settings'
            ? 'restart the database servers whose settings need it, one by one'
            : 'restart the database servers, one by one',
        traffic: 'writes wait for a few seconds while the primary changes; reads go on',
        undo: 'there is nothing to take back',
      };
    case 'switch-over':
      return {
        mark: '~',
        what: `make ${step.to ?? 'the replica that is the furthest'} the primary in the place of ${step.from}`,
        traffic: 'writes wait for a few seconds; reads go on',
        undo: `make ${step.from} the primary again`,
      };
    case 'start-embedded':
      return {
        mark: '+',
        what: 'start a single PostgreSQL from npm',
        traffic: NOTHING,
        undo: 'stop it',
      };
    case 'move':
      return {
        mark: '~',
        what: `copy the database to the ${step.to === 'cluster' ? 'replicated servers' : 'single server'}, follow it, compare every row, and switch`,
        traffic:
          'writes wait for a moment at the switch (less than 5 s); sessions of other tools end',
        undo: 'move it back in the same way',
      };
    case 'clear-move':
      return {
        mark: '~',
        what: 'end the replication between the single server and the others',
        traffic: NOTHING,
        undo: 'there is nothing to take back',
      };
    case 'declare':
      return {
        mark: '~',
        what: 'check how tables are spread over the shards, guard them, and tell the servers',
        traffic: NOTHING,
        undo: 'the declaration that was',
      };
    case 'stop-embedded':
      return {
        mark: '-',
        what: 'stop the single PostgreSQL; its data is kept in .banyan/postgres.old',
        traffic: NOTHING,
        undo: 'start another, and move the database back',
      };
  }
}
