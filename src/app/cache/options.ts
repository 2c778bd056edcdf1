/** What `createCache` and `cache.get` may be told, checked once. */
import { InvalidCacheKey, InvalidCacheOption } from './errors.ts';

/** Milliseconds, or a text with its unit: `500ms`, `5s`, `10m`, `2h`, `1d`. */
export type Duration = number | string;

export interface GetOptions {
  /**
   * How long an entry may be used. What changes in the database drops it at once, so this is for what the
   * database does not know: the time of day, other services. Default: 1 hour; up to 10 % less, so that
   * what came together does not go together. From 1 ms to 30 days.
   */
  ttl?: Duration;
  /**
   * For how long after its expiry an entry may still be given out, while it is computed anew beside the request.
   * Never after an invalidation. Default: not at all.
   */
  stale?: Duration;
  /** The same as `ttl`, of a result that is undefined or null. Default: that of `ttl`. */
  negativeTtl?: Duration;
  /** Further things that it depends on, for `cache.invalidateTag`. */
  tags?: readonly string[];
}

/** A key, or its parts: `['article', 5]`. */
export type CacheKey = string | readonly (string | number | bigint | boolean)[];

/** In milliseconds. */
export interface Lifetime {
  readonly ttlMs: number;
  readonly staleMs: number;
}

const UNITS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const MAX_MS = 30 * 86_400_000;
const DEFAULT_TTL_MS = 3_600_000;
/** Of UTF-8. Redis takes longer ones; a key that is a document is a mistake. */
const MAX_KEY_BYTES = 512;
const MAX_TAGS = 64;
/** With it the keys of namespaces begin. */
const AT = 64;

/** @throws InvalidCacheOption */
export function durationMs(value: Duration, name: string, least = 1): number {
  const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$/.exec(String(value)) ?? [];
  const ms = typeof value === 'number' ? value : Number(digits) * (UNITS[unit] ?? Number.NaN);
  if (ms >= least && ms <= MAX_MS) return ms;
  throw new InvalidCacheOption(
    name,
    value,
    "Give a number of milliseconds, or a text such as '500ms', '5s', '10m', '2h' or '1d', up to 30 days",
  );
}

/** @throws InvalidCacheOption */
export function lifetimeOf(options: GetOptions, value: unknown): Lifetime {
  const isNegative = value === undefined || value === null;
  const ttl = (isNegative ? options.negativeTtl : undefined) ?? options.ttl;
  return {
    ttlMs: ttl === undefined ? DEFAULT_TTL_MS : durationMs(ttl, 'ttl'),
    staleMs: options.stale === undefined ? 0 : durationMs(options.stale, 'stale', 0),
  };
}

/** Checks before anything is loaded for it. @throws InvalidCacheOption */
export function checkOptions(options: GetOptions): void {
  if (options.ttl !== undefined) durationMs(options.ttl, 'ttl');
  if (options.negativeTtl !== undefined) durationMs(options.negativeTtl, 'negativeTtl');
  if (options.stale !== undefined) durationMs(options.stale, 'stale', 0);
  const { tags } = options;
  if (tags === undefined) return;
  if (!Array.isArray(tags) || tags.length > MAX_TAGS || !tags.every(isTag)) {
    throw new InvalidCacheOption('tags', tags, `Give a list of up to ${MAX_TAGS} texts`);
  }
}

export function isTag(tag: unknown): tag is string {
  return typeof tag === 'string' && tag !== '' && Buffer.byteLength(tag) <= MAX_KEY_BYTES;
}

/** @throws InvalidCacheKey */
export function fullKey(namespace: string, key: CacheKey): string {
  const text = typeof key === 'string' ? key : partsText(key);
  if (text === '') {
    throw new InvalidCacheKey('The key is empty', 'Give a text, or a list of its parts');
  }
  // Of texts of one byte a character, which nearly all are, the length says it.
  if (text.length > MAX_KEY_BYTES / 3 && Buffer.byteLength(text) > MAX_KEY_BYTES) {
    throw new InvalidCacheKey(
      `The key has ${Buffer.byteLength(text)} bytes, and may have ${MAX_KEY_BYTES}: ${text.slice(0, 60)}…`,
      'Use a hash of what is long in it',
    );
  }
  if (namespace !== '') return `@${namespace}:${text}`;
  // As it is, mostly: a text that was put together anew has to be hashed anew.
  return text.charCodeAt(0) === AT ? `@:${text}` : text;
}

function partsText(parts: CacheKey): string {
  if (!Array.isArray(parts)) {
    throw new InvalidCacheKey('The key is no text', 'Give a text, or a list of its parts');
  }
  // Parts that hold the separator must not look like two.
  return parts.map(part => String(part).replaceAll(/[%:]/g, encodeURIComponent)).join(':');
}
