/**
 * The connections that a client of a sharded pool keeps until its release, since its session is in them.
 *
 * Holds true here:
 * - None is kept until the session says something; then one on each shard that is used after a SET, and one on the
 *   first shard for what is there alone.
 * - Each has been told all that was set, in its order.
 * - They are closed, never given back: what was set in them would be the next one's.
 */
import type pg from 'pg';
import type { ShardSet } from './shard-set.ts';

type Event = ['notice' | 'notification' | 'error' | 'end', ...unknown[]];
const FORWARDED = ['notice', 'notification', 'error', 'end'] as const;

export class SessionConnections {
  readonly #shards: ShardSet;
  readonly #onEvent: (event: Event) => void;
  readonly #kept = new Map<number, Promise<pg.PoolClient>>();
  readonly #settings: { text: string; values?: unknown[] }[] = [];
  #home: pg.PoolClient | undefined;
  #isHomeKept = false;

  /** @param onEvent of the connection to the first shard */
  constructor(shards: ShardSet, onEvent: (event: Event) => void) {
    this.#shards = shards;
    this.#onEvent = onEvent;
  }

  /** That on the first shard, when one is kept. */
  get home(): pg.PoolClient | undefined {
    return this.#home;
  }

  /** The connection that is kept for a shard; undefined when any will do. */
  kept(index: number): Promise<pg.PoolClient> | undefined {
    if (this.#settings.length === 0 && !(this.#isHomeKept && index === 0)) return undefined;
    return this.#keep(index);
  }

  /** A connection to the shard's primary, kept or not. @returns with how to give it back */
  async connect(index: number): Promise<[pg.PoolClient, (error: Error | undefined) => void]> {
    const kept = this.kept(index);
    if (!kept) {
      const client = await this.#shards.at(index).connect();
      return [client, error => client.release(error)];
    }
    const client = await kept;
    const giveBack = (error: Error | undefined) => {
      if (error) this.#lose(index, client, error);
    };
    return [client, giveBack];
  }

  /** Keeps one on the first shard from now on. */
  keepHome(): Promise<pg.PoolClient> {
    this.#isHomeKept = true;
    return this.#keep(0);
  }

  /** Sets something for the session, everywhere. @throws what the first shard says against it */
  async set(text: string, values: unknown[] | undefined): Promise<pg.QueryResult> {
    const home = await this.#keep(0);
    const setting = { text, ...(values ? { values } : {}) };
    const result = await home.query({ ...setting });
    this.#settings.push(setting);
    const others = [...this.#kept].filter(([index]) => index !== 0);
    await Promise.all(others.map(async ([, client]) => (await client).query({ ...setting })));
    return result;
  }

  close(): void {
    for (const opening of this.#kept.values()) {
      opening.then(
        client => client.release(true),
        () => {},
      );
    }
    this.#kept.clear();
    this.#home = undefined;
  }

  #keep(index: number): Promise<pg.PoolClient> {
    let opening = this.#kept.get(index);
    if (!opening) {
      opening = this.#open(index);
      this.#kept.set(index, opening);
      opening.catch(() => this.#kept.delete(index));
    }
    return opening;
  }

  async #open(index: number): Promise<pg.PoolClient> {
    const client = await this.#shards.at(index).connect();
    try {
      for (const setting of this.#settings) await client.query({ ...setting });
    } catch (error) {
      client.release(true);
      throw error;
    }
    if (index === 0) {
      this.#home = client;
      for (const event of FORWARDED) {
        client.on(event as 'end', (...args: unknown[]) => this.#onEvent([event, ...args]));
      }
    }
    return client;
  }

  /** What was there alone is gone; what was set is set again on the next. */
  #lose(index: number, client: pg.PoolClient, error: Error): void {
    this.#kept.delete(index);
    if (index === 0) this.#home = undefined;
    client.release(error);
  }
}
