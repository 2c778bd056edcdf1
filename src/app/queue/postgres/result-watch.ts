/**
 * Who waits for results is told by NOTIFY, over one connection to each shard that is there while somebody waits. Only a hint: whoever
 * waits looks now and then by himself.
 */
import { Link } from './link.ts';
import type { Place } from './places.ts';

const LIVENESS_MS = 5_000;

export class ResultWatch {
  readonly #places: () => readonly Place[];
  readonly #waiting = new Map<string, Set<() => void>>();
  readonly #links = new Map<Place, Link>();
  #timer: NodeJS.Timeout | undefined;

  constructor(places: () => readonly Place[]) {
    this.#places = places;
  }

  /** @returns how to stop */
  watch(id: string, changed: () => void): () => void {
    const those = this.#waiting.get(id) ?? new Set();
    those.add(changed);
    this.#waiting.set(id, those);
    this.#listen();
    return () => {
      those.delete(changed);
      if (those.size === 0) this.#waiting.delete(id);
      if (this.#waiting.size === 0) void this.close();
    };
  }

  #listen(): void {
    for (const place of this.#places()) {
      if (this.#links.has(place)) continue;
      const link = new Link({
        shard: place.id,
        open: () => place.open(),
        greet: async client => {
          await client.query('listen banyan_queue_results');
        },
        onNotification: (_channel, id) => {
          for (const changed of this.#waiting.get(id) ?? []) changed();
        },
      });
      this.#links.set(place, link);
      link.query({ text: 'select 1' }).catch(() => {});
    }
    this.#timer ??= setInterval(() => {
      for (const link of this.#links.values()) link.query({ text: 'select 1' }).catch(() => {});
    }, LIVENESS_MS);
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    const links = [...this.#links.values()];
    this.#links.clear();
    await Promise.all(links.map(link => link.close()));
  }
}
