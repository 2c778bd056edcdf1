/**
 * What the application gets to know when a connection broke under what it did.
 *
 * Holds true here: `safeToRetry` is true only when it is certain that nothing of it was kept. The original
 * error, with pg's own `code`, is the `cause`.
 */
import { BanyanError } from '../../errors.ts';

/** A transaction ended with its connection, and whether it may be repeated is known. */
export class TransactionBroken extends BanyanError {
  /** Nothing of the transaction was kept: the whole of it may be run again. */
  readonly safeToRetry: boolean;

  /** @param cause the error of the connection */
  constructor(cause: unknown, { safeToRetry = true }: { safeToRetry?: boolean } = {}) {
    super('TRANSACTION_BROKEN', {
      what: `The connection broke within a transaction: ${messageOf(cause)}`,
      where: 'the database connection',
      remedy: safeToRetry
        ? 'COMMIT had not been sent, so nothing of the transaction was kept: run the whole of it again'
        : 'Look whether what it was to do has been done before running it again',
      cause,
    });
    this.safeToRetry = safeToRetry;
  }
}

/** The connection broke after something was sent that may have been carried out: nobody knows whether it was. */
export class OutcomeUnknown extends BanyanError {
  readonly safeToRetry = false;

  /**
   * @param what was sent: `COMMIT`, `a write`
   * @param cause the error of the connection
   */
  constructor(what: string, cause: unknown) {
    super('OUTCOME_UNKNOWN', {
      what: `The connection broke before the answer to ${what} came: ${messageOf(cause)}`,
      where: 'the database connection',
      remedy:
        'It may have been carried out, and was not repeated. Look whether it was before doing it again',
      cause,
    });
  }
}

/**
 * A read-only transaction runs on a replica, has run something there already, and asks for what only the
 * primary has.
 */
export class NeedsPrimary extends BanyanError {
  /** @param why completes "it …" */
  constructor(why: string) {
    super('NEEDS_PRIMARY', {
      what: `The statement ${why}, and its read-only transaction runs on a replica`,
      where: 'a transaction that was begun with READ ONLY',
      remedy: 'Begin the transaction without READ ONLY, or make this its first statement',
    });
  }
}

function messageOf(error: unknown): string {
  return (error as Error | undefined)?.message || String(error);
}
