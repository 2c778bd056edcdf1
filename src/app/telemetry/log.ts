/**
 * The application's log: JSON lines on standard output, which the supervisor collects, rotates and
 * shows. Every line written while a request is served carries its `requestId`.
 */
import pino from 'pino';
import { requestContext } from './request-context.ts';

export type Logger = pino.Logger;

/**
 * Writes a line of log. Use `log.child({ … })` for lines that share fields.
 * Level: `LOG_LEVEL` (trace, debug, info, warn, error, fatal, silent), `info` by default.
 */
export const log: Logger = pino({
  level: process.env.LOG_LEVEL ?? 'info',
  base: {},
  mixin: () => {
    const context = requestContext();
    return context ? { requestId: context.requestId } : {};
  },
  // What must never reach a log, wherever in the first levels of an object it turns up.
  redact: {
    paths: ['password', '*.password', 'token', '*.token', '*.authorization', '*.cookie'],
    censor: '[hidden]',
  },
});
