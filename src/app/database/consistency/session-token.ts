/**
 * The token between two requests of one browser: a small signed cookie that says how far each database cluster was when
 * the last write of the session there had been acknowledged. It spares the next requests the question to the primary.
 *
 * Holds true here:
 * - Without the cookie a request asks the primary, which is exact too: the cookie proves, it never promises.
 * - A mark of the last `OVERTAKING_MS` proves nothing: of two responses of a session the one that was sent
 *   first may arrive last, and put its older cookie over the newer one. While any mark is that young, none is known to be
 *   missing, so nothing is proven of any cluster.
 * - Where a position cannot be had, the cookie is taken back: an old one must not stand for a newer write.
 * - It tells of writes that went through a request with this session. What the same user wrote elsewhere (a
 *   request without the sessions' middleware, a job) it does not know.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import type pg from 'pg';
import { deriveKey } from '../../environment.ts';
import { BanyanPool } from '../banyan-pool.ts';
import { ShardedPool } from '../shards/sharded-pool.ts';
import type { Position } from './position.ts';
import { currentRequest, type RequestScopes, type ScopePositions } from './scope.ts';

/** Responses that cross are seconds apart at the most. */
const OVERTAKING_MS = 10_000;
/** The headers wait no longer than this for the primary's answer. */
const RESOLVE_TIMEOUT_MS = 500;
/** About 30 bytes each, of a cookie's 4096: of more clusters the oldest are left out. */
const MOST_MARKS = 64;
/** Of a cluster that has no name, since there is no map. */
const NAMELESS = '-';

let key: Buffer | undefined;

/** What a request's session has to do with its tokens. */
export interface SessionToken {
  /** The response has to tell the browser of a write, or of one whose position is not known. */
  readonly isNeeded: boolean;
  /** Asks for the positions; resolves when `value` is final. Never fails. */
  resolve(): Promise<void>;
  /** It has been resolved: the response has to say `value`. */
  readonly isResolved: boolean;
  /** The cookie's value; undefined when it has to be cleared. */
  readonly value: string | undefined;
}

/** The session's last write in one cluster. */
export interface Mark {
  /** Milliseconds since 1970, by the clock of who wrote. */
  readonly writtenAt: number;
  readonly position: Position;
}

/** By cluster. */
export type Marks = ReadonlyMap<string, Mark>;

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
  const request = currentRequest();
  const clusters = request && clustersOf(pool);
  if (!request || !clusters || clusters.size === 0) return undefined;
  const said = (cookie === undefined ? undefined : parseMarks(cookie)) ?? new Map<string, Mark>();
  // A clock that is behind the writer's makes a token young, never old.
  const isOld = [...said.values()].every(({ writtenAt }) => now - writtenAt >= OVERTAKING_MS);
  if (cookie !== undefined && !(isOld && said.size > 0)) request.mayHaveWritten();
  for (const [cluster, { position }] of said) {
    const positions = clusters.get(cluster);
    if (!positions) continue;
    const scope = request.of(positions.owner);
    scope.hasWrittenBefore = true;
    if (isOld) scope.accept(position);
  }
  return new RequestToken(request, clusters, said);
}

/** Those that anybody keeps count of. */
function clustersOf(pool: pg.Pool): ReadonlyMap<string, ScopePositions> {
  const pools: readonly { id: string; pool: BanyanPool }[] =
    pool instanceof ShardedPool
      ? pool.shards.all
      : pool instanceof BanyanPool
        ? [{ id: pool.cluster ?? NAMELESS, pool }]
        : [];
  const found = new Map<string, ScopePositions>();
  for (const each of pools) if (each.pool.positions) found.set(each.id, each.pool.positions);
  return found;
}

class RequestToken implements SessionToken {
  readonly #request: RequestScopes;
  readonly #clusters: ReadonlyMap<string, ScopePositions>;
  readonly #said: Marks;
  isResolved = false;
  value: string | undefined;

  constructor(request: RequestScopes, clusters: ReadonlyMap<string, ScopePositions>, said: Marks) {
    this.#request = request;
    this.#clusters = clusters;
    this.#said = said;
  }

  get isNeeded(): boolean {
    return !this.isResolved && this.#written().length > 0;
  }

  async resolve(): Promise<void> {
    const written = await Promise.all(
      this.#written().map(async ([cluster, positions]) => {
        const scope = this.#request.of(positions.owner);
        return [cluster, await positions.resolve(scope, RESOLVE_TIMEOUT_MS)] as const;
      }),
    );
    const writtenAt = Date.now();
    const marks = new Map([...this.#said].filter(([cluster]) => this.#clusters.has(cluster)));
    let isWhole = true;
    for (const [cluster, position] of written) {
      if (position) marks.set(cluster, { position, writtenAt });
      else isWhole = false;
    }
    this.value = isWhole ? renderMarks(marks) : undefined;
    this.isResolved = true;
  }

  #written(): [cluster: string, ScopePositions][] {
    return [...this.#clusters].filter(([, { owner }]) => this.#request.of(owner).hasWritten);
  }
}

/** `cluster~timeline~lsn~time` for each, the newest first, and a signature; between them dots. */
export function renderMarks(marks: Marks): string {
  const texts = [...marks]
    .sort(([, a], [, b]) => b.writtenAt - a.writtenAt)
    .slice(0, MOST_MARKS)
    .map(
      ([
        cluster,
        {
          writtenAt,
          position: { timeline, lsn },
        },
      ]) =>
        [
          escaped(cluster),
          ...[timeline, lsn, BigInt(writtenAt)].map(part => part.toString(36)),
        ].join('~'),
    );
  const text = texts.join('.');
  return `${text}.${signatureOf(text)}`;
}

/** @returns undefined for what is not ours */
export function parseMarks(value: string): Map<string, Mark> | undefined {
  const end = value.lastIndexOf('.');
  const text = value.slice(0, Math.max(0, end));
  const given = Buffer.from(value.slice(end + 1));
  const right = Buffer.from(signatureOf(text));
  if (given.length !== right.length || !timingSafeEqual(given, right)) return undefined;
  const marks = new Map<string, Mark>();
  for (const part of text.split('.')) {
    const [cluster, timeline, lsn, time, ...more] = part.split('~');
    // Of an earlier version of Banyan.
    if (cluster === undefined || !timeline || !lsn || !time || more.length > 0) return undefined;
    marks.set(decodeURIComponent(cluster), {
      position: { timeline: Number.parseInt(timeline, 36), lsn: fromBase36(lsn) },
      writtenAt: Number.parseInt(time, 36),
    });
  }
  return marks;
}

function escaped(cluster: string): string {
  return encodeURIComponent(cluster).replaceAll('.', '%2E').replaceAll('~', '%7E');
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
