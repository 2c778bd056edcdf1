/**
 * What a statement says to its session or its transaction, in a pool of several shards, where neither is one
 * server's. Pure: from the facts of its text.
 *
 * Holds true here: what is not one of these is the planner's, and needs no session. What cannot mean over several
 * shards what it means on one server is refused, with words.
 */
import type { StatementFacts, TransactionEffect } from '../route/facts.ts';
import { ShardedSessionRefused } from './errors.ts';

export type SessionWord =
  /** BEGIN, COMMIT, SAVEPOINT, …: of one statement. */
  | { readonly kind: 'transaction'; readonly effect: TransactionEffect }
  /** SET LOCAL and its like: for all branches of the transaction, those to come as well. */
  | { readonly kind: 'local-setting' }
  /** SET, RESET: for all connections of the client. */
  | { readonly kind: 'setting' }
  /** LISTEN, an advisory lock, a temporary table: on the first shard, over a connection that is kept. */
  | { readonly kind: 'home-session' }
  /** Several statements, of which some are of these kinds. */
  | { readonly kind: 'several' }
  | { readonly kind: 'none' };

const NONE: SessionWord = { kind: 'none' };

/** What may stand before a statement: space, and comments (those of C nest, which no driver writes). */
export const LEADING = /^(?:\s+|--[^\n]*(?:\n|$)|\/\*[\s\S]*?\*\/)*/;

const USE_PG =
  'Nothing was sent. Leave it to the driver: pool.query({ name, text, values }) prepares the statement on each connection that it comes to';

/**
 * @param values of the statement, which may say whether a setting is for the transaction alone
 * @throws ShardedSessionRefused
 */
export function sessionWord(
  text: string,
  facts: StatementFacts,
  values: readonly unknown[] | undefined,
): SessionWord {
  const { pins, transaction, statements } = facts;
  if (pins === 'nothing' && transaction.length === 0) return NONE;
  if (statements > 1) return { kind: 'several' };
  const [effect] = transaction;
  if (effect) {
    refuseTwoPhase(effect);
    return { kind: 'transaction', effect };
  }
  const word = /^\w+/.exec(text.replace(LEADING, ''))?.[0].toLowerCase() ?? '';
  const usesTables = facts.tables.some(
    ({ schema, role }) => schema !== 'pg_temp' && role !== 'defined',
  );
  if (word === 'set' || word === 'reset' || word === 'discard') {
    return { kind: pins === 'transaction' ? 'local-setting' : 'setting' };
  }
  if (/\bset_config\s*\(/i.test(text)) {
    if (usesTables) {
      throw new ShardedSessionRefused(
        'changes a setting and reads a table at once',
        'Nothing was sent. Call set_config in a statement of its own, before this one',
      );
    }
    const isLasting =
      /\bfalse\b/i.test(text) || values?.some(value => value === false || value === 'false');
    return { kind: isLasting ? 'setting' : 'local-setting' };
  }
  if (word === 'prepare' || word === 'execute') {
    throw new ShardedSessionRefused(
      `uses ${word.toUpperCase()}, which belongs to one connection`,
      USE_PG,
    );
  }
  if (pins !== 'session') return NONE;
  if (usesTables) {
    throw new ShardedSessionRefused(
      `${facts.pinnedBy ?? 'changes its session'}, and uses tables, which may be on other shards`,
      'Nothing was sent. Do the one in a statement of its own, and then the other',
    );
  }
  return { kind: 'home-session' };
}

function refuseTwoPhase({ kind }: TransactionEffect): void {
  if (kind !== 'prepare' && kind !== 'commit prepared' && kind !== 'rollback prepared') return;
  throw new ShardedSessionRefused(
    'commits in two phases by itself',
    'Nothing was sent. COMMIT does so over as many shards as were written to; for a transaction with another system use one of its branches on a connection to its shard',
  );
}
