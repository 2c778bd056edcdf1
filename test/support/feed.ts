/** What an invalidator tells, as a test sees it. */
import type { Batch, FeedEvent } from '../../src/app/cache/feed.ts';
import { FeedSocket } from '../../src/app/cache/feed-socket/feed-socket.ts';
import { readRuntimeMap } from '../../src/map/map-file.ts';
import { until } from './until.ts';

export class HeardFeed {
  readonly feed: FeedSocket;
  readonly events: FeedEvent[] = [];
  readonly #disconnect: () => void;

  /** @param mapFile of a deployment that is up */
  constructor(mapFile: string) {
    this.feed = new FeedSocket({
      addresses: () => readRuntimeMap(mapFile).cache?.feeds.flatMap(each => each.addresses) ?? [],
      name: 'a test',
    });
    this.#disconnect = this.feed.connect(event => this.events.push(event));
  }

  batches(cluster: string): Batch[] {
    return this.events.flatMap(event =>
      event.kind === 'batch' && event.batch.cluster === cluster ? [event.batch] : [],
    );
  }

  /** Of all transactions that were told, in order. */
  tags(cluster: string): string[][] {
    return this.batches(cluster)
      .flatMap(({ invalidations }) => invalidations)
      .map(({ tags }) => [...tags].sort());
  }

  gaps(cluster: string): FeedEvent[] {
    return this.events.filter(event => event.kind === 'gap' && event.cluster === cluster);
  }

  /** Waits until a table is covered, since the last gap. */
  async covered(cluster: string, table: string): Promise<void> {
    await until(
      () => {
        const since = this.events.findLastIndex(
          event => event.kind === 'gap' && event.cluster === cluster,
        );
        return this.events
          .slice(since + 1)
          .some(
            event => event.kind === 'covers' && event.cluster === cluster && table in event.tables,
          );
      },
      { what: `${table} is covered`, timeoutMs: 60_000 },
    );
  }

  /** Waits until a transaction with this tag is told. */
  async heard(cluster: string, tag: string): Promise<void> {
    await until(() => this.tags(cluster).some(tags => tags.includes(tag)), {
      what: `${tag} is told`,
      timeoutMs: 60_000,
    });
  }

  close(): void {
    this.#disconnect();
  }
}
