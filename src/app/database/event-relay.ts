/**
 * A pool over several others tells their events as its own. Those that come with every statement are asked for from
 * the moment on that somebody listens: an application that does not pays nothing for them.
 */
import type pg from 'pg';

const ALWAYS = ['connect', 'remove', 'error'];
const WHEN_ASKED = new Set<string | symbol>(['acquire', 'release']);

export class EventRelay {
  readonly #to: pg.Pool;
  readonly #asked = new Set<string>();

  /** @param pools those that are there when somebody begins to listen */
  constructor(to: pg.Pool, pools: () => Iterable<pg.Pool>) {
    this.#to = to;
    const onNewListener = (event: string) => {
      if (!WHEN_ASKED.has(event) || this.#asked.has(event)) return;
      this.#asked.add(event);
      for (const pool of pools()) this.#relay(pool, event);
    };
    to.on('newListener' as 'connect', onNewListener as unknown as () => void);
  }

  /** One that has joined. */
  add(pool: pg.Pool): void {
    for (const event of [...ALWAYS, ...this.#asked]) this.#relay(pool, event);
  }

  // The types want an overload for each name; what is passed on is the same for all.
  #relay(pool: pg.Pool, event: string): void {
    pool.on(event as 'connect', (...args) => this.#to.emit(event as 'connect', ...args));
  }
}
