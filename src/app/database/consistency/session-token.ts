/**
 * The token between two requests of one browser: a small signed cookie that says how far the database was when
 * the last write of the session had been acknowledged. It spares the next requests the question to the primary.
 *
 * Holds true here:
 * - Without the cookie a request asks the primary, which is exact too: the cookie proves, it never promises.
 * - A cookie of the last `OVERTAKING_MS` proves nothing: of two responses of a session the one that was sent
 *   first may arrive last, and put its older token over the newer one.
 * - Where the position cannot be had, the cookie is taken back: an old one must not stand for a newer write.
 * - It tells of writes that went through a request with this session. What the same user wrote elsewhere (a
 *   request without the sessions' middleware, a job) it does not know.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import type pg from 'pg';
import { deriveKey } from '../../environment.ts';
import { BanyanPool } from '../banyan-pool.ts';
import type { Position } from './position.ts';
import { currentRequest, type Scope, type ScopePositions } from './scope.ts';

/** Responses that cross are seconds apart at the most. */
const OVERTAKING_MS = 10_000;
/** The headers wait no longer than this for the primary's answer. */
const RESOLVE_TIMEOUT_MS = 500;

let key: Buffer | undefined;

/** What a request's session has to do with its tokens. */
export interface SessionToken {
  /** The response has to tell the browser of a write, or of one whose position is not known. */
  readonly isNeeded: boolean;
  /** Asks for the position; resolves when `value` is final. Never fails. */
  resolve(): Promise<void>;
  /** It has been resolved: the response has to say `value`. */
  readonly isResolved: boolean;
  /** The cookie's value; undefined when it has to be cleared. */
  readonly value: string | undefined;
}

/**
 * Takes the token that came with the current request.
 * @param cookie its value, when there is one
 * @returns undefined where there are neither replicas nor a cache, or no request
 */
export function openSessionToken(
  pool: pg.Pool,
  cookie: string | undefined,
  now = Date.now(),
): SessionToken | undefined {
  const positions = pool instanceof BanyanPool ? pool.positions : undefined;
  const scope = positions && currentRequest()?.of(positions.owner);
  if (!positions || !scope) return undefined;
  const said = cookie === undefined ? undefined : parseToken(cookie);
  if (said) scope.hasWrittenBefore = true;
  // A clock that is behind the writer's makes a token young, never old.
  if (said && now - said.writtenAt >= OVERTAKING_MS) scope.accept(said.position);
  return new RequestToken(positions, scope);
}

class RequestToken implements SessionToken {
  readonly #positions: ScopePositions;
  readonly #scope: Scope;
  isResolved = false;
  value: string | undefined;

  constructor(positions: ScopePositions, scope: Scope) {
    this.#positions = positions;
    this.#scope = scope;
  }

  get isNeeded(): boolean {
    return this.#scope.hasWritten && !this.isResolved;
  }

  async resolve(): Promise<void> {
    const position = await this.#positions.resolve(this.#scope, RESOLVE_TIMEOUT_MS);
    this.value = position && renderToken(position, Date.now());
    this.isResolved = true;
  }
}

/** `timeline.lsn.time.signature` */
export function renderToken({ timeline, lsn }: Position, writtenAt: number): string {
  const text = [timeline, lsn, BigInt(writtenAt)].map(part => part.toString(36)).join('.');
  return `${text}.${signatureOf(text)}`;
}

/** @returns undefined for what is not ours */
export function parseToken(value: string): { position: Position; writtenAt: number } | undefined {
  const end = value.lastIndexOf('.');
  const text = value.slice(0, Math.max(0, end));
  const given = Buffer.from(value.slice(end + 1));
  const right = Buffer.from(signatureOf(text));
  if (given.length !== right.length || !timingSafeEqual(given, right)) return undefined;
  const [timeline = '', lsn = '', time = ''] = text.split('.');
  return {
    position: { timeline: Number.parseInt(timeline, 36), lsn: fromBase36(lsn) },
    writtenAt: Number.parseInt(time, 36),
  };
}

/** Beyond 2^53, which `parseInt` does not reach. */
function fromBase36(digits: string): bigint {
  let value = 0n;
  for (const digit of digits) value = value * 36n + BigInt(Number.parseInt(digit, 36));
  return value;
}

function signatureOf(text: string): string {
  key ??= deriveKey('read-your-writes-cookie');
  // 132 bits are enough for what lives a session long and opens nothing.
  return createHmac('sha256', key).update(text).digest('base64url').slice(0, 22);
}
