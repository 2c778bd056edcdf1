/**
 * What of RabbitMQ's messages is written to PostgreSQL: that they had their effects, that they moved there, that they are dead,
 * and how many were done.
 *
 * Holds true here: a message's note (`banyan_queue.effect`, names.ts) is written in the transaction of its effects, or of its move; it can be
 * but once. So of all that RabbitMQ delivers of a message one has effects or moves.
 */
import type pg from 'pg';
import { shardedTransactionOf } from '../../database/shards/sharded-client.ts';
import { type TransactionOptions, transaction } from '../../database/transaction.ts';
import type { Delivery, OutgoingMessage, SubscriptionPolicy } from '../engine.ts';
import { AlreadyDone } from '../errors.ts';
import { notedEffects, noteEffects } from '../postgres/effects.ts';
import { type Place, placeByHash } from '../postgres/places.ts';
import { SubscriptionUnknown } from './errors.ts';
import { noteOf } from './names.ts';

/** $1 message, $2 its note, $3 topic, $4 subscription. Nothing is noted where the subscription is not known, as yet. */
const NOTED = `with s as (select id from banyan_queue.subscription where topic = $3 and name = $4),
  noted as (
    insert into banyan_queue.effect (message, subscription)
    select $1::bigint, $2::text from s on conflict do nothing returning message)`;

/** `due` null: it is ready. */
const MOVE = `${NOTED}, moved as (
    insert into banyan_queue.delivery (message, due, subscription, attempts, suspect, alone, payload)
    select n.message, clock_timestamp() + $5::float8 * interval '1 ms', s.id, $6::smallint, $7::boolean, $7::boolean and $6::smallint > 0, $8 from noted n cross join s)
  select from s`;

const BURY = `${NOTED}, buried as (
    insert into banyan_queue.dead (message, subscription, priority, attempts, payload, error)
    select n.message, s.id, 0, $5, $6, left($7, 4000) from noted n cross join s
    on conflict do nothing)
  select from s`;

/** $1 ids, $2 payloads, $3 topic, $4 what notes of its subscriptions begin with. */
const ADOPT = `with given as (select * from unnest($1::bigint[], $2::text[]) g (message, payload)),
  noted as (
    insert into banyan_queue.effect (message, subscription)
    select g.message, $4 || s.name
    from given g cross join banyan_queue.subscription s where s.topic = $3
    on conflict do nothing returning message, subscription)
  insert into banyan_queue.delivery (message, subscription, payload)
  select n.message, s.id, g.payload from noted n
  join banyan_queue.subscription s on s.topic = $3 and n.subscription = $4 || s.name
  join given g on g.message = n.message`;

const COUNT = `select banyan_queue.count_up(0, s.id, $3, $4, $5)
  from banyan_queue.subscription s where s.topic = $1 and s.name = $2`;

export interface Tally {
  completed: number;
  failed: number;
  died: number;
}

export class Ledger {
  readonly #pool: pg.Pool;
  readonly #places: () => readonly Place[];

  constructor(pool: pg.Pool, places: () => readonly Place[]) {
    this.#pool = pool;
    this.#places = places;
  }

  /** To be tried again there. @param inMs 0: at once. @throws SubscriptionUnknown, and it stays where it is */
  async move(
    { id, topic, subscription, payload, isSuspect }: Delivery,
    inMs: number,
    attempts: number,
  ): Promise<void> {
    const { rowCount } = await this.#at(id).query({
      name: 'banyan_queue_move',
      text: MOVE,
      values: [
        id,
        noteOf(topic, subscription),
        topic,
        subscription,
        inMs > 0 ? inMs : null,
        attempts,
        isSuspect,
        payload,
      ],
    });
    if (rowCount === 0) throw new SubscriptionUnknown(topic, subscription);
    if (inMs > 0) return;
    await this.#at(id).query({ text: 'select banyan_queue.wake($1, 1)', values: [topic] });
  }

  /**
   * There is one database: a note is the only one of its message. Of several each has notes of its own, and who has effects on one
   * would not see that another has taken charge.
   */
  get canAdopt(): boolean {
    return this.#places().length === 1;
  }

  /** RabbitMQ may have them or not: what of them it has not done is done here, and has its effect once whatever RabbitMQ has. */
  async adopt(
    topic: string,
    messages: readonly Pick<OutgoingMessage, 'id' | 'payload'>[],
  ): Promise<void> {
    const [place] = this.#places();
    await place!.query({
      text: ADOPT,
      values: [
        messages.map(({ id }) => id),
        messages.map(({ payload }) => payload),
        topic,
        noteOf(topic, ''),
      ],
    });
    await place!.query({ text: 'select banyan_queue.wake($1, 8)', values: [topic] });
  }

  /** @throws SubscriptionUnknown, and it stays where it is */
  async bury(
    { id, topic, subscription, payload, attempt }: Delivery,
    error: string,
  ): Promise<void> {
    const { rowCount } = await this.#at(id).query({
      text: BURY,
      values: [id, noteOf(topic, subscription), topic, subscription, attempt, payload, error],
    });
    if (rowCount === 0) throw new SubscriptionUnknown(topic, subscription);
  }

  /** @returns ids of those that had their effects, or moved, or were done */
  async noted(
    ids: readonly string[],
    { topic, name }: Pick<SubscriptionPolicy, 'topic' | 'name'>,
  ): Promise<Set<string>> {
    const answers = await Promise.all(
      this.#places().map(place => notedEffects(place, ids, noteOf(topic, name))),
    );
    return new Set(answers.flat());
  }

  /** They were done, and are not acknowledged yet. */
  async note(
    ids: readonly string[],
    { topic, name }: Pick<SubscriptionPolicy, 'topic' | 'name'>,
  ): Promise<void> {
    await noteEffects(this.#places()[0]!, ids, noteOf(topic, name));
  }

  /** How often a suspect was begun by itself; undefined: it was not begun, among others neither. */
  async trialsOf(
    id: string,
    policy: Pick<SubscriptionPolicy, 'topic' | 'name'>,
  ): Promise<number | undefined> {
    const { rows } = await this.#at(id).query<{ trials: number }>({
      text: 'select trials from banyan_queue.trial where message = $1 and subscription = $2',
      values: [id, noteOf(policy.topic, policy.name)],
    });
    return rows[0]?.trials;
  }

  /** Suspects of a subscription are about to be begun: should their worker die now, that is counted of one that is by itself. */
  async begin(suspects: readonly Delivery[]): Promise<void> {
    const places = Map.groupBy(suspects, ({ id }) => this.#at(id));
    await Promise.all(
      [...places].map(([place, own]) => {
        const { topic, subscription } = own[0]!;
        return place.query({
          text: `insert into banyan_queue.trial as t (message, subscription, trials)
            select unnest($1::bigint[]), $2, $3
            on conflict (message, subscription) do update set trials = t.trials + excluded.trials, at = now()`,
          values: [
            own.map(({ id }) => id),
            noteOf(topic, subscription),
            suspects.length === 1 ? 1 : 0,
          ],
        });
      }),
    );
  }

  /** @throws AlreadyDone; of several deliveries an error, since some may not be done */
  withEffects<T>(
    deliveries: readonly Delivery[],
    fn: (tx: pg.PoolClient) => Promise<T>,
    options: TransactionOptions,
  ): Promise<T> {
    return transaction(
      this.#pool,
      async client => {
        if (!shardedTransactionOf(client)) {
          // First: who comes second waits, and does no work.
          await note(client, deliveries);
          return fn(client);
        }
        const value = await fn(client);
        const over = shardedTransactionOf(client)!;
        await over.on(over.writtenTo[0] ?? 0, true, each => note(each, deliveries));
        return value;
      },
      options,
    );
  }

  async count(policy: Pick<SubscriptionPolicy, 'topic' | 'name'>, tally: Tally): Promise<void> {
    const { completed, failed, died } = tally;
    await this.#places()[0]!.query({
      text: COUNT,
      values: [policy.topic, policy.name, completed, failed, died],
    });
  }

  #at(id: string): Place {
    return placeByHash(this.#places(), id);
  }
}

async function note(
  client: Pick<pg.ClientBase, 'query'>,
  deliveries: readonly Delivery[],
): Promise<void> {
  const [first] = deliveries;
  const ids = deliveries.map(({ id }) => id);
  if (await noteEffects(client, ids, noteOf(first!.topic, first!.subscription))) return;
  if (deliveries.length === 1) throw new AlreadyDone(first!.id);
  throw new Error('one of the messages of this batch was done already: each is tried by itself');
}
