/**
 * `job.transaction`: the effects of a message and the end of its delivery are one transaction.
 *
 * Holds true here:
 * - On the delivery's own shard the delivery is deleted in it, by position and turn: of two who try, one finds it, and
 *   whoever lost the lease does not.
 * - When only other shards were written to, the message's id is written to the first of them, where it can be but once; the
 *   delivery is completed afterwards, and a redelivery looks for the id first. Nothing commits in two phases for a message.
 */
import type pg from 'pg';
import { shardedTransactionOf } from '../../database/shards/sharded-client.ts';
import { type TransactionOptions, transaction } from '../../database/transaction.ts';
import type { Delivery } from '../engine.ts';
import { AlreadyDone, LeaseLost } from '../errors.ts';
import type { Place } from './places.ts';
import { columnsOf, type Receipt, receiptOf } from './receipt.ts';

const TAKE_OUT = `delete from banyan_queue.delivery d using unnest($2::bigint[], $3::smallint[], $4::int[]) x (p, r, t)
  cross join lateral (
    select e.ctid as c from banyan_queue.delivery e
    where e.subscription = $1 and e.due is null and e.priority = x.r and e.position = x.p limit 1) f
  where d.ctid = f.c and d.position = x.p and d.turn = x.t`;

const NOTE = `insert into banyan_queue.effect (message, subscription)
  select m, $2 from unnest($1::bigint[]) m on conflict do nothing`;

export interface EffectsOptions {
  readonly pool: pg.Pool;
  readonly places: () => readonly Place[];
  /** For tests alone. */
  readonly unguarded: boolean;
}

/** @returns what `fn` returned, and whether the deliveries are out of the table with it */
export async function withEffects<T>(
  { pool, places, unguarded }: EffectsOptions,
  deliveries: readonly Delivery[],
  fn: (tx: pg.PoolClient) => Promise<T>,
  options: TransactionOptions,
): Promise<{ value: T; isComplete: boolean }> {
  const receipts = deliveries.map(receiptOf);
  const own = receipts[0]!.worker.place;
  const first = deliveries[0]!;
  const isRedelivery = receipts.some(({ turn }) => turn > 0);
  if (places().length > 1 && isRedelivery) await lookForEffects(places(), deliveries);
  return transaction(
    pool,
    async client => {
      if (unguarded) return { value: await fn(client), isComplete: false };
      if (!shardedTransactionOf(client)) {
        // First: who has lost it does no work, and who comes second waits.
        await takeOut(client, receipts, first.id);
        return { value: await fn(client), isComplete: true };
      }
      const value = await fn(client);
      const sharded = shardedTransactionOf(client)!;
      const index = places().findIndex(({ id }) => id === own.id);
      const { writtenTo } = sharded;
      if (index >= 0 && (writtenTo.length === 0 || writtenTo.includes(index))) {
        await sharded.on(index, true, each => takeOut(each, receipts, first.id));
        return { value, isComplete: true };
      }
      await sharded.on(writtenTo[0]!, true, async each => {
        if (!(await noteEffects(each, idsOf(deliveries), nameOf(first))))
          throw new AlreadyDone(first.id);
      });
      return { value, isComplete: false };
    },
    options,
  );
}

async function takeOut(
  client: Pick<pg.ClientBase, 'query'>,
  receipts: readonly Receipt[],
  id: string,
): Promise<void> {
  const { rowCount } = await client.query({
    name: 'banyan_queue_take_out',
    text: TAKE_OUT,
    values: [receipts[0]!.subscription, ...columnsOf(receipts)],
  });
  if (rowCount !== receipts.length) throw new LeaseLost(id);
}

/**
 * Notes that messages have their effects: by a transaction, or by themselves.
 * @param name of whose effects they are
 * @returns whether none of them had been noted before
 */
export async function noteEffects(
  at: { query(config: pg.QueryConfig): Promise<pg.QueryResult> },
  ids: readonly string[],
  name: string,
): Promise<boolean> {
  const { rowCount } = await at.query({ text: NOTE, values: [ids, name] });
  return rowCount === ids.length;
}

/** @returns ids of those whose effects are noted at a place */
export async function notedEffects(
  place: Place,
  ids: readonly string[],
  name: string,
): Promise<string[]> {
  const { rows } = await place.query<{ id: string }>({
    text: 'select message::text as id from banyan_queue.effect where message = any ($1::bigint[]) and subscription = $2',
    values: [ids, name],
  });
  return rows.map(({ id }) => id);
}

/** @throws AlreadyDone; what asking a shard that is away throws: then nobody knows, and it is tried again */
async function lookForEffects(
  places: readonly Place[],
  deliveries: readonly Delivery[],
): Promise<void> {
  const [first] = deliveries;
  await Promise.all(
    places.map(async place => {
      const noted = await notedEffects(place, idsOf(deliveries), nameOf(first!));
      if (noted.length > 0) throw new AlreadyDone(first!.id);
    }),
  );
}

const idsOf = (deliveries: readonly Delivery[]) => deliveries.map(({ id }) => id);
const nameOf = ({ topic, subscription }: Delivery) => `${topic}/${subscription}`;
