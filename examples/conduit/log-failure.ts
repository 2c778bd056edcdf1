/**
 * Puts an unexpected error into the log. Drizzle's errors carry the query's parameters in their message,
 * which may be passwords' hashes and addresses: its cause and the query's text say enough.
 */
import { log } from 'banyan';
import { DrizzleQueryError } from 'drizzle-orm';

export function logFailure(error: Error): void {
  if (error instanceof DrizzleQueryError) {
    log.error({ err: error.cause, query: error.query }, 'a query failed');
  } else {
    log.error({ err: error }, 'a request failed');
  }
}
