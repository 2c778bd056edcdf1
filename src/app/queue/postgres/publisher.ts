/**
 * Publishing on PostgreSQL: one call of `banyan_queue.publish` for the messages of a topic, on one shard.
 *
 * Where a message goes:
 * - in a transaction on one database: into that transaction, at once;
 * - in a transaction over shards: to a shard that it has written to, just before COMMIT, when that is known;
 * - by itself: to the shard of its key, or its dedupe key; else to each shard in turn.
 */
import type pg from 'pg';
import { shardedTransactionOf } from '../../database/shards/sharded-client.ts';
import type { ShardedTransaction } from '../../database/shards/sharded-transaction.ts';
import { log } from '../../telemetry/log.ts';
import type { OutgoingMessage } from '../engine.ts';
import { NotInTransaction } from '../errors.ts';
import { type Place, placeByHash } from './places.ts';
import { ensureQueueSchema } from './schema.ts';

const PUBLISH =
  'select banyan_queue.publish($1, $2::bigint[], $3::text[], $4::text[], $5::smallint[], $6::float8[], $7::text[], $8::float8[], $9) as ids';

type Database = Pick<pg.ClientBase, 'query'>;

export class Publisher {
  readonly #places: () => readonly Place[];
  readonly #prepared = new WeakMap<Place, Promise<void>>();
  #next = 0;

  constructor(places: () => readonly Place[]) {
    this.#places = places;
  }

  /** Makes the schema there, once. */
  prepare(place: Place): Promise<void> {
    const known = this.#prepared.get(place);
    if (known) return known;
    const preparing = prepare(place);
    this.#prepared.set(place, preparing);
    preparing.catch(() => this.#prepared.delete(place));
    return preparing;
  }

  async publish(
    messages: readonly OutgoingMessage[],
    tx: pg.ClientBase | undefined,
  ): Promise<string[]> {
    if (messages.length === 0) return [];
    return tx ? this.#within(messages, tx) : this.#alone(messages);
  }

  async #within(messages: readonly OutgoingMessage[], tx: pg.ClientBase): Promise<string[]> {
    const status = (tx as { getTransactionStatus?(): string | null }).getTransactionStatus?.();
    if (status === 'I') throw new NotInTransaction();
    const places = this.#places();
    const sharded = shardedTransactionOf(tx);
    if (!sharded) {
      await this.prepare(places[0]!);
      return write(tx, messages, true);
    }
    await Promise.all(places.map(place => this.prepare(place)));
    // With a dedupe key the answer is needed now; else as late as can be.
    if (messages.some(({ dedupe }) => dedupe)) return this.#writeTo(sharded, messages);
    sharded.beforeCommit(async () => {
      await this.#writeTo(sharded, messages);
    });
    return messages.map(({ id }) => id);
  }

  async #writeTo(
    transaction: ShardedTransaction,
    messages: readonly OutgoingMessage[],
  ): Promise<string[]> {
    const index = transaction.writtenTo[0] ?? transaction.touched[0] ?? 0;
    const ids = await transaction.on(index, true, client => write(client, messages, false));
    transaction.afterCommit(() => this.#wake(index, messages));
    return ids;
  }

  /** After a transaction that may not say NOTIFY itself. Whoever is not woken looks by himself. */
  #wake(index: number, messages: readonly OutgoingMessage[]): void {
    const place = this.#places()[index];
    for (const topic of new Set(messages.map(message => message.topic))) {
      place
        ?.query({ text: 'select banyan_queue.wake($1, 8)', values: [topic] })
        .catch(error => log.debug({ err: error }, 'nobody was woken for a message'));
    }
  }

  async #alone(messages: readonly OutgoingMessage[]): Promise<string[]> {
    const places = this.#places();
    const groups = new Map<Place, number[]>();
    const any = places[this.#next++ % places.length]!;
    for (const [index, { key, dedupe, topic }] of messages.entries()) {
      const by = key ?? dedupe?.key;
      const place = by === undefined ? any : placeByHash(places, `${topic}/${by}`);
      const group = groups.get(place);
      if (group) group.push(index);
      else groups.set(place, [index]);
    }
    if (groups.size === 1) {
      const [place] = groups.keys();
      await this.prepare(place!);
      return write(place!, messages, true);
    }
    const ids: string[] = [];
    await Promise.all(
      [...groups].map(async ([place, indexes]) => {
        await this.prepare(place);
        const own = indexes.map(index => messages[index]!);
        for (const [i, id] of (await write(place, own, true)).entries()) ids[indexes[i]!] = id;
      }),
    );
    return ids;
  }
}

async function prepare(place: Place): Promise<void> {
  // Over a connection of its own: all of the pool's may be in transactions that wait for this.
  const client = await place.open();
  try {
    await ensureQueueSchema(client);
  } finally {
    client.end().catch(() => {});
  }
}

/** All of them of one topic, which `Queue` sees to; several are several calls. */
async function write(
  database: Database | Place,
  messages: readonly OutgoingMessage[],
  wakes: boolean,
): Promise<string[]> {
  const values = valuesOf(messages, wakes);
  const { rows } = await (database as Database).query<{ ids: string[] | null }>({
    name: 'banyan_queue_publish',
    text: PUBLISH,
    values,
  });
  return rows[0]?.ids ?? messages.map(({ id }) => id);
}

function valuesOf(messages: readonly OutgoingMessage[], wakes: boolean): unknown[] {
  const has = <K extends keyof OutgoingMessage>(name: K, none: OutgoingMessage[K]) =>
    messages.some(message => message[name] !== none);
  const list = <T>(is: boolean, get: (message: OutgoingMessage) => T) =>
    is ? messages.map(get) : null;
  const dedupes = has('dedupe', undefined);
  return [
    messages[0]!.topic,
    // Numbers alone: nothing in them has to be escaped.
    `{${messages.map(({ id }) => id).join(',')}}`,
    messages.map(({ payload }) => payload),
    list(has('key', undefined), ({ key }) => key ?? null),
    list(has('priority', 0), ({ priority }) => priority),
    list(has('delayMs', 0), ({ delayMs }) => delayMs),
    list(dedupes, ({ dedupe }) => dedupe?.key ?? null),
    list(dedupes, ({ dedupe }) => dedupe?.forMs ?? null),
    wakes,
  ];
}
