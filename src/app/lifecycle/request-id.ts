/**
 * A request's id: taken from `X-Request-Id` when a balancer in front has given one, else new. Pure
 * but for the random.
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';

export const REQUEST_ID_HEADER = 'x-request-id';

/** What may stand in a log and a header without being taken for something else. */
const WELL_FORMED = /^[\w.:=+/-]{1,128}$/;

export function requestIdOf(request: Pick<IncomingMessage, 'headers'>): string {
  const given = request.headers[REQUEST_ID_HEADER];
  return typeof given === 'string' && WELL_FORMED.test(given) ? given : randomUUID();
}
