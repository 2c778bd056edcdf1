/**
 * Tags that the application names itself: no log tells of them, so they have a line of their own, the pseudo-cluster `~`.
 *
 * Holds true here: its numbers only grow: microseconds of the clock, never below the one before. Who begins cannot know the
 * last one, so he begins with a gap.
 */
import { EXPLICIT } from '../../../app/cache/feed.ts';
import type { InvalidationStore } from '../../../app/cache/store.ts';
import type { FeedServer } from './feed-server.ts';

/** So often processes hear that all is well. */
const BEAT_MS = 1_000;

export class ExplicitLine {
  readonly #feed: FeedServer;
  readonly #store: () => InvalidationStore | undefined;
  #last = 0n;
  #storedTo = 0n;
  #beat: NodeJS.Timeout | undefined;
  #queue: Promise<unknown> = Promise.resolve();

  constructor(feed: FeedServer, store: () => InvalidationStore | undefined) {
    this.#feed = feed;
    this.#store = store;
  }

  async begin(): Promise<void> {
    this.#last = now();
    this.#storedTo = this.#last;
    this.#feed.gap(EXPLICIT, this.#last, 'an invalidator has begun');
    await this.#store()
      ?.flush(EXPLICIT, this.#last)
      // A bucket that does not hear of it has a hole, and finds that itself.
      .catch(() => {});
    this.#feed.covers(EXPLICIT, this.#last, {});
    this.#beat = setInterval(() => void this.invalidate([]), BEAT_MS);
  }

  /** Resolves when the tags were told and stored. */
  async invalidate(tags: readonly string[]): Promise<void> {
    const from = this.#last;
    const upto = now() > from ? now() : from + 1n;
    this.#last = upto;
    const invalidations = tags.length > 0 ? [{ xid: undefined, lsn: upto, tags }] : [];
    this.#feed.batch({ cluster: EXPLICIT, from, upto, invalidations });
    const stored = this.#queue.then(async () => {
      const batch = { cluster: EXPLICIT, from: this.#storedTo, upto, invalidations };
      this.#storedTo = upto;
      await this.#store()?.apply(batch);
    });
    // One that failed is a hole in its bucket, no reason not to go on.
    this.#queue = stored.catch(() => {});
    await this.#queue;
  }

  end(): void {
    clearInterval(this.#beat);
  }
}

function now(): bigint {
  return BigInt(Date.now()) * 1_000n;
}
