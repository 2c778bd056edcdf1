/**
 * What belongs to the request that is being served, wherever the code is: the async context.
 *
 * `lifecycle()` opens one for each request. Other rooms add what they carry along: the log its
 * request id, later the database its read-your-writes token.
 */
import { AsyncLocalStorage } from 'node:async_hooks';

export interface RequestContext {
  /** From the `X-Request-Id` header if it is well-formed, else new. */
  requestId: string;
}

const storage = new AsyncLocalStorage<RequestContext>();

/** Runs `body` with `context` as the current one, in everything it calls and awaits. */
export function withRequestContext<T>(context: RequestContext, body: () => T): T {
  return storage.run(context, body);
}

/** The current request's context; undefined outside a request. */
export function requestContext(): RequestContext | undefined {
  return storage.getStore();
}
