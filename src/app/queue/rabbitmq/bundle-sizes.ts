/**
 * How many messages are in one of RabbitMQ's, of each topic: RabbitMQ says how many bundles wait, and who looks at the queue wants to know
 * how many messages. Publishers note it in the database.
 *
 * Holds true here: it is an average of what was published of late, so a depth made with it is about right; none is none.
 */
import { log } from '../../telemetry/log.ts';
import type { Place } from '../postgres/places.ts';

const NOTE_MS = 2_000;
/** Of what was published before, for each note: half of it counts after seven. */
const DECAY = 0.9;

const NOTE = `insert into banyan_queue.bundling as b (topic, bundles, messages) values ($1, $2, $3)
  on conflict (topic) do update set bundles = b.bundles * ${DECAY} + $2, messages = b.messages * ${DECAY} + $3`;

interface Sum {
  bundles: number;
  messages: number;
}

export class BundleSizes {
  readonly #places: () => readonly Place[];
  #sums = new Map<string, Sum>();
  /** Of which all messages have been alone: nothing need be noted as long as they are. */
  readonly #alone = new Set<string>();
  #timer: NodeJS.Timeout | undefined;

  constructor(places: () => readonly Place[]) {
    this.#places = places;
  }

  add(topic: string, messages: number): void {
    const sum = this.#sums.get(topic) ?? { bundles: 0, messages: 0 };
    sum.bundles++;
    sum.messages += messages;
    this.#sums.set(topic, sum);
    this.#timer ??= setTimeout(() => void this.note(), NOTE_MS).unref();
  }

  /** What has come since the last note. */
  async note(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const sums = this.#sums;
    this.#sums = new Map();
    for (const [topic, { bundles, messages }] of sums) {
      if (bundles < messages) this.#alone.delete(topic);
      else if (this.#alone.has(topic)) continue;
      try {
        await this.#places()[0]!.query({ text: NOTE, values: [topic, bundles, messages] });
        if (bundles === messages) this.#alone.add(topic);
      } catch (error) {
        log.debug({ err: error }, 'the queue: sizes of bundles could not be noted');
      }
    }
  }
}

/** @returns messages per bundle, of the topics of which it is known */
export async function bundleSizes(places: readonly Place[]): Promise<Map<string, number>> {
  const { rows } = await places[0]!.query<{ topic: string; size: number }>({
    text: 'select topic, greatest(1, messages / bundles) as size from banyan_queue.bundling where bundles > 0',
    values: [],
  });
  return new Map(rows.map(({ topic, size }) => [topic, size]));
}
