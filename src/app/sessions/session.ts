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

/** What the browser's cookie held. */
export interface BrowserCookie {
  /** The id; undefined when the cookie was damaged or forged. */
  id: string | undefined;
}

/** @typeParam Data the session's keys and their types; values are stored as JSON */
export class Session<Data extends object = Record<string, unknown>> {
  readonly #store: SessionStore;
  readonly #ttlMs: number;
  readonly #cookie: BrowserCookie | undefined;
  #stored: StoredUnder | undefined;
  #data: Record<string, unknown>;
  #userId: string | undefined;
  /** Changed by this request and not yet written; undefined stands for removed. */
  #changes = new Map<string, unknown>();
  /** The id that the session will have once it is written, when that is not the stored one. */
  #nextId: string | undefined;
  /** The new id is for somebody who has just proved who they are. */
  #isLogin = false;
  /** Logged out by this request and still in the store. */
  #toDestroy: string | undefined;
  /** The browser's cookie is worth nothing, and the browser does not know. */
  #mustClear: boolean;
  #extended = false;
  /** Rises when the session ends, so that a write that was under way then is known for late. */
  #endings = 0;
  /** Writes of a request come one after the other, also when it starts several at a time. */
  #writing: Promise<void> = Promise.resolve();

  /** @internal made by `createSessions` */
  constructor(
    store: SessionStore,
    ttlMs: number,
    cookie: BrowserCookie | undefined,
    stored: StoredUnder | undefined,
  ) {
    this.#store = store;
    this.#ttlMs = ttlMs;
    this.#cookie = cookie;
    // A cookie of ours whose session is gone is left alone: another request of the same browser may
    // just have been given a new id, and clearing the cookie would throw that away.
    this.#mustClear = cookie !== undefined && cookie.id === undefined;
    this.#stored = stored;
    this.#data = ownValues(stored?.data);
    this.#userId = stored?.userId;
  }

  /** Who is logged in; undefined when nobody is. */
  get userId(): string | undefined {
    return this.#userId;
  }

  get<Key extends keyof Data & string>(key: Key): Data[Key] | undefined {
    return this.#data[key] as Data[Key] | undefined;
  }

  /**
   * Written before the response is sent. If two requests set the same key, the later one wins. After a
   * change within a value, `set` it again: only then is it known to have changed.
   */
  set<Key extends keyof Data & string>(key: Key, value: Data[Key]): void {
    this.#data[key] = value;
    this.#change(key, value);
  }

  delete(key: keyof Data & string): void {
    delete this.#data[key];
    if (this.#stored || this.#nextId) this.#change(key, undefined);
  }

  /**
   * Changes a value by what it was, at once and without losing what other requests of the same session
   * do at the same time: a counter, a shopping cart.
   * @param change gets the value in the store; may be called more than once, so it should only compute
   * @returns the new value; undefined also when the session has been ended meanwhile
   * @throws SessionTooLarge
   */
  async update<Key extends keyof Data & string>(
    key: Key,
    change: (value: Data[Key] | undefined) => Data[Key] | undefined,
  ): Promise<Data[Key] | undefined> {
    // What this request changed before goes first, so that `change` sees it.
    await this.save();
    if (!this.#stored) {
      const value = change(this.get(key));
      if (value === undefined) this.delete(key);
      else this.set(key, value);
      await this.save();
      return value;
    }
    const { id } = this.#stored;
    const data = await this.#store.update(sessionKey(id), key, stored => {
      const value = change(stored as Data[Key] | undefined);
      requireSize({ [key]: value });
      return value;
    });
    if (!data) {
      if (this.#stored?.id === id) this.#lose();
      return undefined;
    }
    this.#data = ownValues(data);
    return this.#data[key] as Data[Key] | undefined;
  }

  /**
   * Logs a user in. The session gets a new id, so that an id that somebody else planted or saw before
   * the login is worth nothing; its data stays.
   */
  login(userId: string | number | bigint): void {
    this.#userId = String(userId);
    this.rotate();
    this.#isLogin = true;
  }

  /** Gives the session a new id: after a login (`login` does it), a change of password or of rights. */
  rotate(): void {
    this.#nextId = newSessionId();
  }

  /** Ends the session: its data is gone, for every request that still uses it too. */
  logout(): void {
    this.#toDestroy = this.#stored?.id ?? this.#toDestroy;
    this.#mustClear = this.#cookie !== undefined;
    this.#lose();
  }

  /**
   * Writes what was changed. The middleware does it before the response; call it yourself before you
   * stream one, or where an error should be yours to handle.
   * @throws SessionTooLarge
   */
  save(): Promise<void> {
    const written = this.#writing.then(() => this.#write());
    this.#writing = written.catch(() => {});
    return written;
  }

  /** @internal What the browser has to be told; right both before and after `save`. */
  cookieChange(): CookieChange {
    const id = this.#nextId ?? this.#stored?.id;
    if (id === undefined) return this.#mustClear ? 'clear' : undefined;
    return id !== this.#cookie?.id || this.#extended || this.#isDue() ? { set: id } : undefined;
  }

  /** @internal True when `save` has something to do. */
  get needsSave(): boolean {
    return (
      this.#toDestroy !== undefined ||
      this.#changes.size > 0 ||
      this.#nextId !== undefined ||
      this.#isDue()
    );
  }

  #change(key: string, value: unknown): void {
    if (!this.#stored) this.#nextId ??= newSessionId();
    this.#changes.set(key, value);
  }

  async #write(): Promise<void> {
    const old = this.#toDestroy;
    if (old !== undefined) {
      await this.#store.destroy(sessionKey(old));
      if (this.#toDestroy === old) this.#toDestroy = undefined;
    }
    const changes = this.#changes;
    const patch = patchOf(changes);
    // From here on changes are those of the next write.
    this.#changes = new Map();
    try {
      if (this.#nextId) await this.#writeUnder(this.#nextId, patch);
      else if (this.#stored) await this.#writeStored(this.#stored, patch, changes.size > 0);
    } catch (error) {
      this.#changes = new Map([...changes, ...this.#changes]);
      throw error;
    }
  }

  async #writeUnder(id: string, patch: SessionPatch): Promise<void> {
    const old = this.#stored;
    const endings = this.#endings;
    let written: StoredSession | undefined;
    if (!old) written = await this.#store.create(sessionKey(id), this.#userId, patch.set);
    else {
      const keys = [sessionKey(old.id), sessionKey(id)] as const;
      written = this.#isLogin
        ? await this.#store.rotateAtLogin(...keys, this.#userId!, patch)
        : await this.#store.rotate(...keys, patch);
    }
    if (!written) return this.#lose();
    if (this.#endings !== endings) {
      this.#toDestroy = id;
      return;
    }
    this.#stored = { id, ...written };
    if (this.#nextId !== id) return;
    this.#nextId = undefined;
    this.#isLogin = false;
    this.#userId = written.userId;
    this.#data = ownValues({ ...written.data, ...Object.fromEntries(this.#changes) });
  }

  async #writeStored(stored: StoredUnder, patch: SessionPatch, hasChanges: boolean): Promise<void> {
    if (!hasChanges && !this.#isDue()) return;
    const key = sessionKey(stored.id);
    const isThere = hasChanges ? await this.#store.patch(key, patch) : await this.#store.touch(key);
    if (!isThere) {
      if (this.#stored === stored) this.#lose();
      return;
    }
    stored.remainingMs = this.#ttlMs;
    this.#extended = true;
  }

  /** There is no session any more: logged out here or in another tab, revoked, expired. */
  #lose(): void {
    this.#endings++;
    this.#stored = undefined;
    this.#nextId = undefined;
    this.#isLogin = false;
    this.#changes.clear();
    this.#data = ownValues(undefined);
    this.#userId = undefined;
  }

  #isDue(): boolean {
    return this.#stored !== undefined && this.#stored.remainingMs < this.#ttlMs * (1 - TOUCH_AFTER);
  }
}

/** @throws SessionTooLarge */
function patchOf(changes: Map<string, unknown>): SessionPatch {
  const set = ownValues(undefined);
  const removed: string[] = [];
  for (const [key, value] of changes) {
    if (value === undefined) removed.push(key);
    else set[key] = value;
  }
  requireSize(set);
  return { set, removed };
}

/** @throws SessionTooLarge */
function requireSize(set: Record<string, unknown>): void {
  const bytes = Buffer.byteLength(JSON.stringify(set));
  if (bytes > CHANGE_LIMIT_BYTES) throw new SessionTooLarge(Object.keys(set), bytes);
}

/** Without a prototype, so that `get('constructor')` finds nothing that nobody has set. */
function ownValues(data: Record<string, unknown> | undefined): Record<string, unknown> {
  return Object.assign(Object.create(null), data) as Record<string, unknown>;
}
