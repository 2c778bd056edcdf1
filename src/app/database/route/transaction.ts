/**
 * BEGIN, COMMIT, SAVEPOINT and their like: what they do to the session's transaction, and whether it may
 * run on a standby.
 *
 * Holds true here:
 * - Only a transaction that says READ ONLY may begin on a standby, and none that is SERIALIZABLE, which a
 *   standby refuses.
 * - Whatever goes on within a transaction, or ends it, goes where it began; so it is a read here, and the
 *   pool knows where that was.
 */
import type { Node, TransactionStmt } from 'libpg-query';
import type { FactsBuilder, Isolation, TransactionModes } from './facts.ts';

export function readTransaction(statement: TransactionStmt, facts: FactsBuilder): void {
  const { kind, chain = false, savepoint_name: name = '', gid = '' } = statement;
  switch (kind) {
    case 'TRANS_STMT_BEGIN':
    case 'TRANS_STMT_START': {
      const modes = transactionModes(statement.options);
      facts.transaction({ kind: 'begin', modes });
      facts.pin('transaction', 'begins a transaction');
      if (modes.readOnly !== true) {
        facts.reason('transaction', 'begins a transaction that may write');
      } else refuseSerializable(modes, facts);
      return;
    }
    case 'TRANS_STMT_COMMIT':
      facts.transaction({ kind: 'commit', chain });
      return;
    case 'TRANS_STMT_ROLLBACK':
      facts.transaction({ kind: 'rollback', chain });
      return;
    case 'TRANS_STMT_SAVEPOINT':
      facts.pin('transaction', 'sets a savepoint');
      facts.transaction({ kind: 'savepoint', name });
      return;
    case 'TRANS_STMT_RELEASE':
      facts.pin('transaction', 'releases a savepoint');
      facts.transaction({ kind: 'release', name });
      return;
    case 'TRANS_STMT_ROLLBACK_TO':
      facts.pin('transaction', 'goes back to a savepoint');
      facts.transaction({ kind: 'rollback to', name });
      return;
    case 'TRANS_STMT_PREPARE':
      facts.reason('transaction', 'prepares its transaction for a commit in two phases');
      facts.transaction({ kind: 'prepare', gid });
      return;
    case 'TRANS_STMT_COMMIT_PREPARED':
      facts.reason('transaction', 'commits a prepared transaction');
      facts.transaction({ kind: 'commit prepared', gid });
      return;
    case 'TRANS_STMT_ROLLBACK_PREPARED':
      facts.reason('transaction', 'rolls back a prepared transaction');
      facts.transaction({ kind: 'rollback prepared', gid });
      return;
    default:
      facts.reason('transaction', `changes its transaction (${kind})`);
  }
}

/** SET TRANSACTION. */
export function readSetTransaction(options: Node[] | undefined, facts: FactsBuilder): void {
  const modes = transactionModes(options);
  facts.transaction({ kind: 'modes', modes });
  facts.pin('transaction', 'sets what its transaction may do');
  if (modes.readOnly === false) {
    facts.reason('transaction', 'makes its transaction one that may write');
  }
  refuseSerializable(modes, facts);
}

function refuseSerializable(modes: TransactionModes, facts: FactsBuilder): void {
  if (modes.isolation !== 'serializable') return;
  facts.reason('transaction', 'wants a serializable transaction, which a standby does not have');
}

/** Of a mode that is given twice the more cautious counts, whatever PostgreSQL makes of it. */
function transactionModes(options: Node[] | undefined): TransactionModes {
  const given = new Map<string, unknown[]>();
  for (const node of options ?? []) {
    if (!('DefElem' in node)) continue;
    const { defname = '', arg } = node.DefElem;
    const value = arg && 'A_Const' in arg ? arg.A_Const : undefined;
    // Zero is left out: `{ ival: {} }`.
    const meaning = value?.sval?.sval ?? (value?.ival?.ival ?? 0) !== 0;
    given.set(defname, [...(given.get(defname) ?? []), meaning]);
  }
  const isolations = given.get('transaction_isolation') as Isolation[] | undefined;
  const isolation = isolations?.includes('serializable') ? 'serializable' : isolations?.at(-1);
  const readOnly = given.get('transaction_read_only')?.every(Boolean);
  const deferrable = given.get('transaction_deferrable')?.every(Boolean);
  return {
    ...(isolation === undefined ? {} : { isolation }),
    ...(readOnly === undefined ? {} : { readOnly }),
    ...(deferrable === undefined ? {} : { deferrable }),
  };
}
