/**
 * Statements that change or ask for what only one session has: its settings, its prepared statements, its
 * cursors, what it listens to.
 *
 * Holds true here: after what lasts (SET, LISTEN, PREPARE) everything of the session stays on that
 * connection, and it is one to the primary, where whatever follows can run. What lasts as long as the
 * transaction (SET LOCAL) goes where the transaction is.
 */
import type { Node, VariableSetStmt } from 'libpg-query';
import type { StatementContext } from './classify.ts';
import type { FactsBuilder } from './facts.ts';
import { readSetTransaction } from './transaction.ts';

/** @returns whether it was one of these */
export function readSession(node: Node, { facts, reader, run }: StatementContext): boolean {
  if ('VariableSetStmt' in node) {
    readSet(node.VariableSetStmt, facts);
  } else if ('VariableShowStmt' in node) {
    const { name = '' } = node.VariableShowStmt;
    facts.reason('asks-session', `shows ${name} of its own session`);
  } else if ('PrepareStmt' in node) {
    const { name = '', query } = node.PrepareStmt;
    lasts(`prepares the statement ${name}`, facts);
    // Nothing runs yet; what EXECUTE runs is this.
    if (query) facts.include(run(query), () => false);
  } else if ('ExecuteStmt' in node) {
    const { name = '', params } = node.ExecuteStmt;
    const why = `executes ${name}, which was prepared before`;
    facts.reason('runs-code', why);
    facts.pin('session', why);
    for (const parameter of params ?? []) reader.read(parameter);
  } else if ('DeallocateStmt' in node) {
    lasts('forgets a prepared statement', facts);
  } else if ('DiscardStmt' in node) {
    lasts('resets its session', facts);
  } else if ('FetchStmt' in node) {
    facts.pin('transaction', `uses the cursor ${node.FetchStmt.portalname}`);
  } else if ('ClosePortalStmt' in node) {
    facts.pin('transaction', `closes the cursor ${node.ClosePortalStmt.portalname ?? '(all)'}`);
  } else if ('ConstraintsSetStmt' in node) {
    facts.pin('transaction', 'says when its transaction checks constraints');
  } else if ('ListenStmt' in node) {
    listens(`listens on ${node.ListenStmt.conditionname}`, facts);
  } else if ('UnlistenStmt' in node) {
    listens('ends listening', facts);
  } else if ('NotifyStmt' in node) {
    facts.reason('notification', `notifies ${node.NotifyStmt.conditionname}`);
  } else if ('LoadStmt' in node) {
    lasts('loads a library into its session', facts);
  } else {
    return false;
  }
  return true;
}

function readSet({ kind, name = '', args, is_local }: VariableSetStmt, facts: FactsBuilder): void {
  if (kind === 'VAR_SET_MULTI' && name === 'TRANSACTION') {
    readSetTransaction(args, facts);
    return;
  }
  if (name === 'TRANSACTION SNAPSHOT') {
    facts.reason('transaction-id', 'takes over a snapshot, which another server does not have');
    facts.pin('transaction', 'takes over a snapshot');
    return;
  }
  if (!is_local) {
    lasts(`sets ${name || 'all settings'} for its session`, facts);
    return;
  }
  facts.pin('transaction', `sets ${name} for its transaction`);
  if (/^transaction_/i.test(name)) {
    facts.reason('transaction', 'changes what its transaction may do');
  }
}

function lasts(why: string, facts: FactsBuilder): void {
  facts.reason('session-state', why);
  facts.pin('session', why);
}

function listens(why: string, facts: FactsBuilder): void {
  facts.reason('notification', why);
  facts.pin('session', why);
}
