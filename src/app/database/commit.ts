/**
 * The one place where the answer to a COMMIT can be lost.
 *
 * Before it is sent the transaction is marked in the log, which costs a round trip; when the connection breaks under
 * it, whoever is the primary then is asked what became of it (`outcome.ts`).
 */
import type pg from 'pg';
import { isBroken, wasNotSent } from './breakage.ts';
import { OutcomeUnknown, TransactionBroken } from './errors.ts';
import { type CommitMark, markCommit, resolveCommit } from './outcome.ts';

/** How long to ask: a primary that is lost has been replaced by then. */
const RESOLVE_TIMEOUT_MS = 28_000;

/** What pg gives for a COMMIT. */
const COMMITTED = { command: 'COMMIT', rowCount: null, oid: null, rows: [], fields: [] };

/**
 * Sends what ends a transaction: COMMIT, or a text that holds one.
 * @param client whose transaction it is, on the primary
 * @param isAlone the text is nothing but a COMMIT, so that its outcome is that of the whole
 * @param send sends it
 * @param connect gives a connection to the primary, and waits while there is none
 * @returns what pg gives; the connection is gone when it was found out from another one
 * @throws TransactionBroken when it was not sent, or not carried out; OutcomeUnknown; what PostgreSQL says
 */
export async function commit(
  client: pg.PoolClient,
  isAlone: boolean,
  send: () => Promise<unknown>,
  connect: () => Promise<pg.PoolClient>,
): Promise<{ result: unknown; isConnectionGone: boolean }> {
  const inOrder = client.getTransactionStatus() === 'T';
  let mark: CommitMark | undefined;
  try {
    if (isAlone && inOrder) mark = await markCommit(client);
  } catch (error) {
    // COMMIT has not been sent.
    throw isBroken(error) || wasNotSent(error) ? new TransactionBroken(error) : error;
  }
  try {
    return { result: await send(), isConnectionGone: false };
  } catch (error) {
    if (wasNotSent(error)) throw new TransactionBroken(error);
    if (!isBroken(error)) throw error;
    // Without a number it wrote nothing: whatever became of it, it may be run again.
    if (isAlone && inOrder && !mark) throw new TransactionBroken(error);
    const outcome = mark
      ? await resolveCommit(mark, connect, { timeoutMs: RESOLVE_TIMEOUT_MS })
      : 'unknown';
    if (outcome === 'committed') return { result: COMMITTED, isConnectionGone: true };
    throw outcome === 'aborted'
      ? new TransactionBroken(error)
      : new OutcomeUnknown('COMMIT', error);
  }
}
