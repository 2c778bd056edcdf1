/**
 * The one place where the answer to a COMMIT can be lost.
 *
 * Whoever finds out what became of a transaction whose COMMIT was sent and not answered (`outcome.ts`) does it
 * here: before `send` it can be noted what there is to ask for later, and after it failed it can be asked.
 */
import type pg from 'pg';
import { isBroken, wasNotSent } from './breakage.ts';
import { OutcomeUnknown, TransactionBroken } from './errors.ts';

/**
 * Sends what ends a transaction: COMMIT, PREPARE TRANSACTION, or a text that holds one.
 * @param client whose transaction it is, on the primary
 * @param send sends it
 * @throws TransactionBroken when it was not sent; OutcomeUnknown when the answer was lost; what PostgreSQL says
 */
export async function commit<T>(_client: pg.PoolClient, send: () => Promise<T>): Promise<T> {
  try {
    return await send();
  } catch (error) {
    if (wasNotSent(error)) throw new TransactionBroken(error);
    if (isBroken(error)) throw new OutcomeUnknown('COMMIT', error);
    throw error;
  }
}
