/**
 * What the invalidator tells, from a real server's log, within the test's own process: it can be held back.
 *
 *     const feed = await LogFeed.start(postgres, connectionString);
 *     feed.hold();  …  feed.release();      // what comes meanwhile is told then
 *     await feed.told(pool);                // all that was committed until now has been told
 */
import pg from 'pg';
import type { FeedEvent, FeedListener, InvalidationFeed } from '../../src/app/cache/feed.ts';
import { EXPLICIT } from '../../src/app/cache/feed.ts';
import type { InvalidationStore } from '../../src/app/cache/store.ts';
import {
  ClusterFollower,
  type FollowerOptions,
} from '../../src/operate/cache/invalidator/follower.ts';
import { until } from './until.ts';

interface Address {
  host: string;
  port: number;
}

export class LogFeed implements InvalidationFeed {
  readonly #listeners = new Set<FeedListener>();
  readonly #follower: ClusterFollower;
  readonly #running: Promise<void>;
  readonly #connectionString: string;
  readonly #cluster: string;
  store: InvalidationStore | undefined;
  #held: FeedEvent[] | undefined;
  /** What the last listeners have to hear first. */
  #covers: FeedEvent | undefined;
  #upto = 0n;
  #explicit = 0n;

  private constructor(members: () => Address[], connectionString: string, cluster: string) {
    this.#connectionString = connectionString;
    this.#cluster = cluster;
    const feed = {
      batch: (batch: FeedEvent & { kind: 'batch' } extends { batch: infer B } ? B : never) =>
        this.#tell({ kind: 'batch', batch }),
      covers: (of: string, from: bigint, tables: never) =>
        this.#tell({ kind: 'covers', cluster: of, from, tables }),
      gap: (of: string, upto: bigint | undefined, reason: string) =>
        this.#tell({ kind: 'gap', cluster: of, upto, reason }),
    };
    this.#follower = new ClusterFollower({
      cluster,
      members,
      connection: { connectionString },
      feed: feed as unknown as FollowerOptions['feed'],
      store: () => this.store,
      onOtherLine: async () => {},
      note: () => {},
      onStoreTrouble: () => {},
    });
    this.#running = this.#follower.run();
  }

  /** Resolves when it tells what changes in all tables that there are. */
  static async start(
    members: () => Address[],
    connectionString: string,
    cluster = '1',
  ): Promise<LogFeed> {
    const feed = new LogFeed(members, connectionString, cluster);
    await until(() => feed.#covers !== undefined, { what: 'the log is read' });
    return feed;
  }

  connect(listener: FeedListener): () => void {
    if (this.#covers) listener(this.#covers);
    const [cluster, upto] = [this.#cluster, this.#upto];
    listener({ kind: 'batch', batch: { cluster, from: upto, upto, invalidations: [] } });
    this.#listeners.add(listener);
    this.#tellExplicit([]);
    return () => this.#listeners.delete(listener);
  }

  async invalidate(tags: readonly string[]): Promise<void> {
    this.#tellExplicit(tags);
  }

  /** As the invalidator does each second: a store that was lost knows again where it is. */
  remind(): void {
    this.#tellExplicit([]);
  }

  /** Until `release` nothing is told. */
  hold(): void {
    this.#held ??= [];
  }

  release(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const event of held) this.#tell(event);
  }

  /** What is told is not whole from here on. */
  gap(reason = 'a test'): void {
    this.#tell({ kind: 'gap', cluster: this.#cluster, upto: undefined, reason });
  }

  /** Waits until all that was committed before has been told. */
  async told(): Promise<void> {
    const client = new pg.Client({ connectionString: this.#connectionString });
    await client.connect();
    try {
      // A commit of one's own is where the log goes on.
      const { rows } = await client.query<{ lsn: string }>(
        "select (pg_logical_emit_message(true, 'test', '') - '0/0')::text as lsn",
      );
      const lsn = BigInt(rows[0]!.lsn);
      await until(() => this.#upto > lsn, { what: 'the log is told' });
    } finally {
      await client.end();
    }
  }

  async close(): Promise<void> {
    this.#follower.close();
    await this.#running;
  }

  #tell(event: FeedEvent): void {
    if (this.#held) {
      this.#held.push(event);
      return;
    }
    if (event.kind === 'covers') this.#covers = event;
    if (event.kind === 'batch') this.#upto = event.batch.upto;
    for (const listener of this.#listeners) listener(event);
  }

  #tellExplicit(tags: readonly string[]): void {
    const from = this.#explicit;
    const upto = from + 1n;
    this.#explicit = upto;
    const invalidations = tags.length > 0 ? [{ xid: undefined, lsn: upto, tags }] : [];
    const batch = { cluster: EXPLICIT, from, upto, invalidations };
    void this.store?.apply(batch);
    for (const listener of this.#listeners) listener({ kind: 'batch', batch });
  }
}
