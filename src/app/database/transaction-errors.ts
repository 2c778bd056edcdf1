/** What can be wrong about the use of `pool.transaction`. Each says whether anything was kept. */
import { BanyanError } from '../../errors.ts';

const WHERE = 'pool.transaction()';

export class NestedTransaction extends BanyanError {
  constructor() {
    super('NESTED_TRANSACTION', {
      what: 'A transaction was begun within a transaction of the same pool: it would run beside the first, on another connection, and could wait for it for ever',
      where: WHERE,
      remedy:
        'Pass the client of the first on and use that; for a part that may fail alone use SAVEPOINT',
    });
  }
}

export class NotYoursToRelease extends BanyanError {
  constructor() {
    super('NOT_YOURS_TO_RELEASE', {
      what: 'The client of a transaction was released by the function that it was lent to',
      where: WHERE,
      remedy: 'Leave out the release(): the client is given back when the function has ended',
    });
  }
}

export class TransactionOver extends BanyanError {
  constructor() {
    super('TRANSACTION_OVER', {
      what: "The client of a transaction was used after the transaction's end",
      where: WHERE,
      remedy:
        'The statement was not sent. Wait for every query within the function, and do not keep the client',
    });
  }
}

export class QueriesStillRunning extends BanyanError {
  constructor(count: number) {
    super('QUERIES_STILL_RUNNING', {
      what: `The function of a transaction returned while ${count === 1 ? 'a query was' : `${count} queries were`} still running: an \`await\` is missing, or a cursor was not closed`,
      where: WHERE,
      remedy: 'The transaction was rolled back. Wait for every query before the function returns',
    });
  }
}

export class TransactionEndedWithin extends BanyanError {
  constructor() {
    super('TRANSACTION_ENDED_WITHIN', {
      what: 'The function of a transaction ended it itself, by a COMMIT, ROLLBACK or PREPARE TRANSACTION of its own or of a library',
      where: WHERE,
      remedy:
        'What it committed itself, and what it did after that, was kept. Leave the end of the transaction to pool.transaction: return to commit, throw to roll back',
    });
  }
}

export class StatementFailed extends BanyanError {
  constructor(cause?: unknown) {
    super('STATEMENT_FAILED', {
      what: 'A statement of the transaction failed and its error was swallowed, after which PostgreSQL commits nothing',
      where: WHERE,
      remedy:
        'The transaction was rolled back. Let the error through, or put a SAVEPOINT before a statement that may fail',
      cause,
    });
  }
}

export class TransactionTimeout extends BanyanError {
  /** @param cause why the last attempt had to be repeated, if one had */
  constructor(timeoutMs: number, cause?: unknown) {
    super('TRANSACTION_TIMEOUT', {
      what: `The transaction was not done within ${timeoutMs / 1_000} s`,
      where: WHERE,
      remedy:
        'Nothing of it was kept, so it may be repeated. Give it more time with `timeoutMs`, or make it smaller',
      cause,
    });
  }
}

export class InvalidTransactionOption extends BanyanError {
  constructor(option: string, value: unknown, allowed: string) {
    super('INVALID_TRANSACTION_OPTION', {
      what: `\`${option}\` cannot be ${JSON.stringify(value)}`,
      where: WHERE,
      remedy: `Nothing was done. It is ${allowed}`,
    });
  }
}
