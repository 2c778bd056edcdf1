/**
 * The application's log: JSON lines on standard output, which the supervisor collects, rotates and
 * shows. Every line written while a request is served carries its `requestId`.
 */
import pino from 'pino';
import { requestContext } from './request-context.ts';

export type Logger = pino.Logger;

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'];
const DEFAULT_LEVEL = 'info';

const asked = process.env.LOG_LEVEL?.trim().toLowerCase() || DEFAULT_LEVEL;

/** Keys whose values must never reach a log, in an object that is logged or in one of its own. */
const SECRETS = ['password', 'secret', 'token', 'authorization', 'cookie', '["set-cookie"]'];

/**
 * Writes a line of log. Use `log.child({ … })` for lines that share fields.
 * Level: `LOG_LEVEL` (trace, debug, info, warn, error, fatal, silent), `info` by default.
 */
export const log: Logger = pino({
  level: LEVELS.includes(asked) ? asked : DEFAULT_LEVEL,
  base: {},
  mixin: () => {
    const context = requestContext();
    return context ? { requestId: context.requestId } : {};
  },
  serializers: { err: withoutClient },
  redact: {
    paths: SECRETS.flatMap(key => {
      const below = key.startsWith('[') ? key : `.${key}`;
      return [key, `*${below}`, `*.*${below}`];
    }),
    censor: '[hidden]',
  },
});

if (!LEVELS.includes(asked)) {
  log.warn(`LOG_LEVEL is ${asked}, which is none of ${LEVELS.join(', ')}; it is taken as info`);
}

/** pg-pool hangs the connection on its errors: four kilobytes of insides, with the key that cancels queries. */
function withoutClient(error: Error): unknown {
  const { client: _client, ...rest } = pino.stdSerializers.err(error) as { client?: unknown };
  return rest;
}
