/** What an error of a statement says of its connection, and of whether the statement was carried out. Pure. */
import { hasCode } from '../../errors.ts';

/**
 * SQLSTATEs with which a server ends a session: admin_shutdown, crash_shutdown, cannot_connect_now,
 * database_dropped, idle_session_timeout, connection exceptions.
 */
const ENDS_SESSION = /^(57P0[1-5]|08...)$/;

const SYSTEM = ['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH'];

const NOT_SENT = /is not queryable$/;

/** The connection broke, or the server ended it. */
export function isBroken(error: unknown): boolean {
  const { code, message = '' } = (error ?? {}) as { code?: unknown; message?: string };
  if (typeof code === 'string' && ENDS_SESSION.test(code)) return true;
  return hasCode(error, ...SYSTEM) || /^Connection terminated|^This socket/.test(message);
}

/** pg itself refused to send it, since the connection had broken before. */
export function wasNotSent(error: unknown): boolean {
  return NOT_SENT.test((error as Error | undefined)?.message ?? '');
}

/** read_only_sql_transaction: nothing of the statement was carried out. */
export const READ_ONLY = '25006';

/** feature_not_supported: of a standby, also an unlogged table. */
export const NOT_SUPPORTED = '0A000';

/**
 * What only a standby says to a read: it was in the way of replay (40001, 40P01 for a buffer's pin), or it
 * asked for what is not there "during recovery" (55000).
 */
const CONFLICTS = ['40001', '40P01', '55000'];

/** The standby could not, another server can. */
export function isStandbysTrouble(error: unknown): boolean {
  return isBroken(error) || wasNotSent(error) || hasCode(error, ...CONFLICTS);
}

/** The standby says that the statement does not belong on one. */
export function isRefusal(error: unknown): boolean {
  return hasCode(error, READ_ONLY, NOT_SUPPORTED);
}
