/** What may be said about topics, messages and workers, checked once, and with its defaults. Pure. */
import type { Duration } from '../cache/options.ts';
import type { RetryOptions, Topic } from './definitions.ts';
import type { SubscriptionPolicy } from './engine.ts';
import { InvalidQueueOption } from './errors.ts';

const UNITS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const MAX_MS = 30 * 86_400_000;

const RETRY = { maxAttempts: 20, firstMs: 1_000, factor: 2, maxMs: 3_600_000 };
const TIMEOUT_MS = 300_000;
const CONCURRENCY = 10;
const BATCH = 100;
const MOST = 10_000;
const DEDUPE_MS = 86_400_000;
const MAX_KEY_BYTES = 512;
const MAX_PRIORITY = 100;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;

/** Of a job. */
export const WORK = 'work';

/** @throws InvalidQueueOption */
export function durationMs(where: string, name: string, value: Duration, least = 1): number {
  const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$/.exec(String(value)) ?? [];
  const ms = typeof value === 'number' ? value : Number(digits) * (UNITS[unit] ?? Number.NaN);
  if (ms >= least && ms <= MAX_MS) return ms;
  throw new InvalidQueueOption(
    where,
    name,
    value,
    "Give a number of milliseconds, or a text such as '500ms', '5s', '10m', '2h' or '1d', up to 30 days",
  );
}

/** @throws InvalidQueueOption */
export function wholeNumber(
  where: string,
  name: string,
  value: number,
  least: number,
  most: number,
): number {
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw new InvalidQueueOption(where, name, value, `Give a whole number from ${least} to ${most}`);
}

/** @throws InvalidQueueOption */
export function checkName(where: string, name: unknown): string {
  if (typeof name === 'string' && NAME.test(name)) return name;
  throw new InvalidQueueOption(
    where,
    'name',
    name,
    'Give a name of letters, digits, `-`, `_` and `.`, up to 100, that begins with a letter or a digit',
  );
}

/** Whether it was made by `defineTopic` or `defineJob`. @throws InvalidQueueOption */
export function checkTopic(where: string, topic: Topic<never, unknown>): void {
  const { kind, name } = (topic ?? {}) as Partial<Topic>;
  if (kind !== 'topic' && kind !== 'job') {
    throw new InvalidQueueOption(
      where,
      'topic',
      name ?? topic,
      'Give what defineTopic or defineJob returned',
    );
  }
  checkName(where, name);
}

/** @throws InvalidQueueOption */
export function policyOf(topic: Topic<never, unknown>, subscription: string): SubscriptionPolicy {
  const where = `topic ${topic.name}`;
  const {
    maxAttempts = RETRY.maxAttempts,
    first,
    factor = RETRY.factor,
    max,
  }: RetryOptions = topic.retry;
  wholeNumber(where, 'retry.maxAttempts', maxAttempts, 1, 1_000);
  if (!(factor >= 1 && factor <= 10)) {
    throw new InvalidQueueOption(where, 'retry.factor', factor, 'Give a number from 1 to 10');
  }
  const { keepResults } = topic as { keepResults?: Duration };
  return {
    topic: topic.name,
    name: subscription,
    maxAttempts,
    backoff: {
      firstMs: first === undefined ? RETRY.firstMs : durationMs(where, 'retry.first', first),
      factor,
      maxMs: max === undefined ? RETRY.maxMs : durationMs(where, 'retry.max', max),
    },
    keepResultsMs: keepResults === undefined ? 0 : durationMs(where, 'keepResults', keepResults),
  };
}

/**
 * How long until the next attempt, in milliseconds: exponential, with "equal jitter" (half of it is random), so that what
 * failed together does not come again together and none comes at once. (Marc Brooker, Exponential backoff and
 * jitter, AWS 2015.)
 * @param failed how many attempts have failed, from 1
 * @param random from 0 to 1
 */
export function backoffMs(
  { firstMs, factor, maxMs }: SubscriptionPolicy['backoff'],
  failed: number,
  random: number,
): number {
  const whole = Math.min(maxMs, firstMs * factor ** (failed - 1));
  return whole / 2 + (whole / 2) * random;
}

export interface CheckedWork {
  readonly concurrency: number;
  readonly timeoutMs: number;
  /** 1: one at a time is given to the handler. */
  readonly size: number;
}

/** @throws InvalidQueueOption */
export function workOptions(
  where: string,
  topic: Topic<never, unknown>,
  options: { concurrency?: number; timeout?: Duration; size?: number },
  isBatch: boolean,
): CheckedWork {
  const timeout = options.timeout ?? topic.timeout;
  return {
    concurrency: wholeNumber(where, 'concurrency', options.concurrency ?? CONCURRENCY, 1, MOST),
    timeoutMs: timeout === undefined ? TIMEOUT_MS : durationMs(where, 'timeout', timeout, 10),
    size: isBatch ? wholeNumber(where, 'size', options.size ?? BATCH, 1, MOST) : 1,
  };
}

export interface CheckedMessageOptions {
  readonly key: string | undefined;
  readonly priority: number;
  readonly delayMs: number;
  readonly dedupe: { key: string; forMs: number } | undefined;
}

const NONE: CheckedMessageOptions = { key: undefined, priority: 0, delayMs: 0, dedupe: undefined };

function checkText(where: string, name: string, value: unknown): string {
  if (typeof value === 'string' && value !== '' && !value.includes('\0')) {
    if (value.length <= MAX_KEY_BYTES / 3 || Buffer.byteLength(value) <= MAX_KEY_BYTES)
      return value;
  }
  throw new InvalidQueueOption(where, name, value, `Give a text of 1 to ${MAX_KEY_BYTES} bytes`);
}

/** @throws InvalidQueueOption */
export function messageOptions(
  where: string,
  options: {
    key?: string;
    priority?: number;
    delay?: Duration;
    dedupe?: string | { key: string; for: Duration };
  },
): CheckedMessageOptions {
  const { key, priority = 0, delay, dedupe } = options;
  if (key === undefined && priority === 0 && delay === undefined && dedupe === undefined)
    return NONE;
  if (key !== undefined) checkText(where, 'key', key);
  wholeNumber(where, 'priority', priority, -MAX_PRIORITY, MAX_PRIORITY);
  if (key !== undefined && priority !== 0) {
    throw new InvalidQueueOption(
      where,
      'priority',
      priority,
      'Messages with a key have the order of their commits: leave one of the two out',
    );
  }
  const held =
    typeof dedupe === 'object' && dedupe !== null
      ? { key: dedupe.key, forMs: durationMs(where, 'dedupe.for', dedupe.for) }
      : dedupe === undefined
        ? undefined
        : { key: dedupe, forMs: DEDUPE_MS };
  if (held) checkText(where, 'dedupe', held.key);
  return {
    key,
    priority,
    delayMs: delay === undefined ? 0 : durationMs(where, 'delay', delay, 0),
    dedupe: held,
  };
}
