/**
 * Sessions for a web application: a signed cookie, the data in a store that every server shares.
 *
 * Glossary:
 * - id: the random text in the cookie. Opaque: it says nothing, and the store can end it at once.
 * - rotation: a new id for the same session, at login.
 * - sliding expiry: a session lives for `ttlMs` after its last use.
 */
import type pg from 'pg';
import { BanyanError } from '../../errors.ts';
import { openSessionToken, type SessionToken } from '../database/consistency/session-token.ts';
import { deriveKey } from '../environment.ts';
import { log } from '../telemetry/log.ts';
import {
  type CookieOptions,
  readCookie,
  renderSetCookie,
  sessionKey,
  sign,
  verify,
} from './cookie.ts';
import { Session } from './session.ts';
import { SessionStore } from './store.ts';

export interface SessionsOptions {
  /** Where sessions are kept: the application's pool. */
  pool: pg.Pool;
  /**
   * How long a session lives after its last use, in milliseconds.
   * Default: 14 days.
   */
  ttlMs?: number;
  cookie?: {
    /** Default: `sid`. */
    name?: string;
    /** Default: `/`. */
    path?: string;
    /** Default: none, the host that set it alone. */
    domain?: string;
    /**
     * Default: `lax`: sent when a user follows a link to you, not with a form that another site
     * posts.
     */
    sameSite?: 'strict' | 'lax' | 'none';
    /**
     * Whether the browser sends it over HTTPS alone.
     * Default: `auto`: when the request came over HTTPS, also if a balancer in front ended it.
     */
    secure?: boolean | 'auto';
  };
}

export class InvalidSessionsOption extends BanyanError {
  constructor(option: string, what: string, cause?: unknown) {
    super('INVALID_SESSIONS_OPTION', {
      what,
      where: `createSessions({ ${option} })`,
      remedy: 'Correct the option; hover over it to see what it means',
      cause,
    });
  }
}

const DAY_MS = 24 * 60 * 60 * 1_000;
const SWEEP_INTERVAL_MS = 10 * 60 * 1_000;

/**
 * @throws InvalidSessionsOption
 * @example
 * const sessions = createSessions<{ theme: string }>({ pool });
 * app.use(honoSessions(sessions));       // c.get('session')
 * await app.register(fastifySessions(sessions));   // request.session
 * app.use(expressSessions(sessions));    // req.session
 */
export function createSessions<Data extends object = Record<string, unknown>>(
  options: SessionsOptions,
): Sessions<Data> {
  return new Sessions<Data>(options);
}

export class Sessions<Data extends object = Record<string, unknown>> {
  readonly #pool: pg.Pool;
  readonly #store: SessionStore;
  /** Of sessions that are open, where the pool has replicas. */
  readonly #tokens = new WeakMap<Session<Data>, SessionToken>();
  readonly #ttlMs: number;
  readonly #cookie: CookieOptions;
  readonly #secure: boolean | 'auto';
  readonly #key = deriveKey('session-cookie');

  /** @internal use {@link createSessions} */
  constructor({ pool, ttlMs = 14 * DAY_MS, cookie = {} }: SessionsOptions) {
    if (!(ttlMs > 0 && Number.isFinite(ttlMs))) {
      throw new InvalidSessionsOption('ttlMs', `A session cannot live for ${ttlMs} milliseconds`);
    }
    this.#pool = pool;
    this.#store = new SessionStore(pool, ttlMs);
    this.#ttlMs = ttlMs;
    this.#secure = cookie.secure ?? 'auto';
    this.#cookie = {
      name: cookie.name ?? 'sid',
      path: cookie.path ?? '/',
      domain: cookie.domain,
      sameSite: cookie.sameSite ?? 'lax',
      // Never 0, which would clear it.
      maxAgeSeconds: Math.ceil(ttlMs / 1_000),
    };
    try {
      renderSetCookie('x', this.#cookie, false);
    } catch (error) {
      // Here, not at the first login.
      throw new InvalidSessionsOption('cookie', (error as Error).message, error);
    }
    const timer = setInterval(() => {
      if (pool.ending) clearInterval(timer);
      else void this.#sweep();
    }, SWEEP_INTERVAL_MS);
    timer.unref();
  }

  /**
   * Opens the session of a request. Without a cookie of ours nothing is asked of the database.
   * @param cookieHeader the request's `Cookie` header
   */
  async open(cookieHeader: string | undefined): Promise<Session<Data>> {
    // First, since loading the session is a read already.
    const token = openSessionToken(this.#pool, readCookie(cookieHeader, this.#tokenName));
    const value = readCookie(cookieHeader, this.#cookie.name);
    const id = value === undefined ? undefined : verify(value, this.#key);
    const stored = id === undefined ? undefined : await this.#store.load(sessionKey(id));
    const session = new Session<Data>(
      this.#store,
      this.#ttlMs,
      value === undefined ? undefined : { id },
      id !== undefined && stored ? { id, ...stored } : undefined,
    );
    if (token) this.#tokens.set(session, token);
    return session;
  }

  /** Whether {@link save} has something to do before the response may leave. */
  needsSave(session: Session<Data>): boolean {
    return session.needsSave || this.#tokens.get(session)?.isNeeded === true;
  }

  /**
   * Writes what the request changed, and, where the database has replicas, finds out how far it is then: the next
   * request of the browser is shown at least that.
   */
  async save(session: Session<Data>): Promise<void> {
    await session.save();
    const token = this.#tokens.get(session);
    if (token?.isNeeded) await token.resolve();
  }

  /**
   * The `Set-Cookie` header that the response needs; undefined when it needs none. For servers without
   * one of the frameworks; a response that has it must not be kept by a shared cache, see
   * {@link responseHeaders}.
   * @param isHttps whether the user's browser speaks HTTPS
   */
  setCookie(session: Session<Data>, isHttps: boolean): string | undefined {
    const change = session.cookieChange();
    if (change === undefined) return undefined;
    const secure = this.#secure === 'auto' ? isHttps : this.#secure;
    const value = change === 'clear' ? undefined : sign(change.set, this.#key);
    return renderSetCookie(value, this.#cookie, secure);
  }

  /**
   * What the response needs for its session; undefined when it needs nothing.
   *
   * A response with the cookie becomes private: an edge or proxy that kept it would hand the session
   * to everyone who asks for the same thing after.
   * @param isHttps whether the user's browser speaks HTTPS
   * @param cacheControl of the response as it is
   */
  responseHeaders(
    session: Session<Data>,
    isHttps: boolean,
    cacheControl: string | undefined,
  ): { setCookies: string[]; cacheControl: string } | undefined {
    const setCookies = [
      this.setCookie(session, isHttps),
      this.#tokenCookie(session, isHttps),
    ].filter(cookie => cookie !== undefined);
    if (setCookies.length === 0) return undefined;
    const isPrivate = /\b(private|no-store)\b/i.test(cacheControl ?? '');
    return { setCookies, cacheControl: isPrivate ? cacheControl! : 'private, no-cache' };
  }

  get #tokenName(): string {
    return `${this.#cookie.name}-seen`;
  }

  #tokenCookie(session: Session<Data>, isHttps: boolean): string | undefined {
    const token = this.#tokens.get(session);
    if (!token?.isResolved) return undefined;
    const secure = this.#secure === 'auto' ? isHttps : this.#secure;
    return renderSetCookie(token.value, { ...this.#cookie, name: this.#tokenName }, secure);
  }

  /** Ends all sessions of a user, at once: after a stolen password, or on "log out everywhere". @returns how many */
  revoke(userId: string | number | bigint): Promise<number> {
    return this.#store.destroyAllOf(String(userId));
  }

  async #sweep(): Promise<void> {
    try {
      await this.#store.sweep();
    } catch (error) {
      log.warn({ err: error }, 'expired sessions could not be deleted; tried again later');
    }
  }
}

/**
 * Also right behind a balancer that ends TLS. Whoever forges the header only hurts themselves.
 * @param forwardedProto the request's `X-Forwarded-Proto`: of each hop, the user's first
 * @param isEncrypted whether the connection to this server is
 */
export function isHttps(
  forwardedProto: string | string[] | undefined,
  isEncrypted: boolean,
): boolean {
  if (forwardedProto === undefined) return isEncrypted;
  return String(forwardedProto).split(',')[0]?.trim().toLowerCase() === 'https';
}
