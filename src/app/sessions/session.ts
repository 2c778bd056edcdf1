/**
 * One request's view of its session.
 *
 * It is read once, at the start of the request; what the request changes is remembered as a patch
 * and written before the response is sent. A visitor without data has no session and no cookie.
 */
import { BanyanError } from '../../errors.ts';
import { newSessionId, sessionKey } from './cookie.ts';
import type { SessionPatch, SessionStore, StoredSession } from './store.ts';

/** A session is read with every request; what is larger belongs in a table of its own. */
const CHANGE_LIMIT_BYTES = 64 * 1024;

/** After this part of a session's life it is extended. Not every time: each would be a write. */
const TOUCH_AFTER = 0.1;

export class SessionTooLarge extends BanyanError {
  constructor(keys: string[], bytes: number) {
    super('SESSION_TOO_LARGE', {
      what: `A request put ${bytes} bytes into its session; ${CHANGE_LIMIT_BYTES} is the limit`,
      where: `session keys ${keys.join(', ')}`,
      remedy: 'Keep the data in a table of your own and its id in the session',
    });
  }
}

/** What the response has to tell the browser. */
export type CookieChange = { set: string } | 'clear' | undefined;

export interface StoredUnder extends StoredSession {
  id: string;
}

/** @typeParam Data the session's keys and their types; values are stored as JSON */
export class Session<Data extends object = Record<string, unknown>> {
  readonly #store: SessionStore;
  readonly #ttlMs: number;
  /** The id in the browser's cookie, if it sent one with our signature or any at all. */
  readonly #browserHas: string | undefined;
  #stored: StoredUnder | undefined;
  #data: Record<string, unknown>;
  #userId: string | undefined;
  /** Changed by this request and not yet written; undefined stands for removed. */
  readonly #changes = new Map<string, unknown>();
  /** The id that the session will have once it is written, when that is not the stored one. */
  #nextId: string | undefined;
  #ended = false;
  #extended = false;

  /** @internal made by `createSessions` */
  constructor(
    store: SessionStore,
    ttlMs: number,
    browserHas: string | undefined,
    stored: StoredUnder | undefined,
  ) {
    this.#store = store;
    this.#ttlMs = ttlMs;
    this.#browserHas = browserHas;
    this.#stored = stored;
    this.#data = { ...stored?.data };
    this.#userId = stored?.userId;
  }

  /** Who is logged in; undefined when nobody is. */
  get userId(): string | undefined {
    return this.#userId;
  }

  get<Key extends keyof Data & string>(key: Key): Data[Key] | undefined {
    return this.#data[key] as Data[Key] | undefined;
  }

  /** Written at the end of the request. If two requests set the same key, the later one wins. */
  set<Key extends keyof Data & string>(key: Key, value: Data[Key]): void {
    this.#data[key] = value;
    this.#change(key, value);
  }

  delete(key: keyof Data & string): void {
    delete this.#data[key];
    if (this.#stored || this.#changes.has(key)) this.#change(key, undefined);
  }

  /**
   * Changes a value by what it was, at once and without losing what other requests of the same session
   * do at the same time: a counter, a shopping cart.
   * @param change gets the value in the store; may be called more than once, so it should only compute
   * @returns the new value
   */
  async update<Key extends keyof Data & string>(
    key: Key,
    change: (value: Data[Key] | undefined) => Data[Key] | undefined,
  ): Promise<Data[Key] | undefined> {
    if (!this.#stored || this.#nextId) {
      const value = change(this.get(key));
      if (value === undefined) this.delete(key);
      else this.set(key, value);
      await this.save();
      return value;
    }
    // What this request changed before goes first, so that `change` sees it.
    await this.save();
    const stored = this.#stored as StoredUnder | undefined;
    if (!stored) return undefined;
    const data = await this.#store.update(
      sessionKey(stored.id),
      key,
      change as (value: unknown) => unknown,
    );
    if (!data) {
      this.#end();
      return undefined;
    }
    this.#data = { ...data };
    return data[key] as Data[Key] | undefined;
  }

  /**
   * Logs a user in. The session gets a new id, so that an id that somebody else planted or saw before
   * the login is worth nothing; its data stays.
   */
  login(userId: string | number | bigint): void {
    this.#userId = String(userId);
    this.rotate();
  }

  /** Gives the session a new id: after a login (`login` does it), a change of password or of rights. */
  rotate(): void {
    this.#ended = false;
    this.#nextId = newSessionId();
  }

  /** Ends the session: its data is gone, for every request that still uses it too. */
  logout(): void {
    this.#changes.clear();
    this.#nextId = undefined;
    this.#ended = true;
    this.#data = {};
    this.#userId = undefined;
  }

  /**
   * Writes what was changed. The middleware does it before the response; call it yourself before you
   * stream one, or where an error should be yours to handle.
   * @throws SessionTooLarge
   */
  async save(): Promise<void> {
    if (this.#ended) {
      const stored = this.#stored;
      this.#stored = undefined;
      if (stored) await this.#store.destroy(sessionKey(stored.id));
      return;
    }
    const patch = this.#takePatch();
    if (this.#nextId) await this.#writeUnder(this.#nextId, patch);
    else if (this.#stored) await this.#writeStored(this.#stored, patch);
  }

  /** @internal What the browser has to be told; right both before and after `save`. */
  cookieChange(): CookieChange {
    const id = this.#ended ? undefined : (this.#nextId ?? this.#stored?.id);
    if (id === undefined) return this.#browserHas === undefined ? undefined : 'clear';
    return id !== this.#browserHas || this.#extended || this.#isDue() ? { set: id } : undefined;
  }

  /** @internal True when `save` has something to do. */
  get needsSave(): boolean {
    const hasEnded = this.#ended && this.#stored !== undefined;
    return hasEnded || this.#changes.size > 0 || this.#nextId !== undefined || this.#isDue();
  }

  #change(key: string, value: unknown): void {
    // A key set after a logout belongs to a new session.
    if (this.#ended) this.rotate();
    if (!this.#stored) this.#nextId ??= newSessionId();
    this.#changes.set(key, value);
  }

  async #writeUnder(id: string, patch: SessionPatch): Promise<void> {
    const old = this.#stored;
    if (old) {
      this.#data = await this.#store.rotate(
        sessionKey(old.id),
        sessionKey(id),
        this.#userId,
        patch,
      );
    } else {
      await this.#store.create(sessionKey(id), this.#userId, patch.set);
    }
    this.#nextId = undefined;
    this.#stored = { id, userId: this.#userId, data: this.#data, remainingMs: this.#ttlMs };
    this.#changes.clear();
  }

  async #writeStored(stored: StoredUnder, patch: SessionPatch): Promise<void> {
    const hasChanges = this.#changes.size > 0;
    if (!hasChanges && !this.#isDue()) return;
    const key = sessionKey(stored.id);
    const isThere = hasChanges ? await this.#store.patch(key, patch) : await this.#store.touch(key);
    if (!isThere) return this.#end();
    this.#changes.clear();
    stored.remainingMs = this.#ttlMs;
    this.#extended = true;
  }

  /** It was ended elsewhere: logged out in another tab, or revoked. */
  #end(): void {
    this.logout();
    this.#stored = undefined;
  }

  #isDue(): boolean {
    return this.#stored !== undefined && this.#stored.remainingMs < this.#ttlMs * (1 - TOUCH_AFTER);
  }

  /** @throws SessionTooLarge */
  #takePatch(): SessionPatch {
    const set: Record<string, unknown> = {};
    const removed: string[] = [];
    for (const [key, value] of this.#changes) {
      if (value === undefined) removed.push(key);
      else set[key] = value;
    }
    const bytes = Buffer.byteLength(JSON.stringify(set));
    if (bytes > CHANGE_LIMIT_BYTES) throw new SessionTooLarge(Object.keys(set), bytes);
    return { set, removed };
  }
}
