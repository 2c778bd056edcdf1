/**
 * A worker's side on one shard: its row in `worker`, what it has in hand there, and the two connections that it says
 * that over (the ear and the hand, README.md).
 *
 * Holds true here:
 * - What is in hand is known here with its lease; a lease whose deliveries are all settled is given up with the next claim.
 * - A worker that the database does not know any more (its row was taken by `reap`) has nothing in hand: it says
 *   so to those who work on it, and comes back as a new one.
 * - What was completed is sent in one statement for all that came while the last one was under way.
 */
import { nextId } from '../../ids/next-id.ts';
import { log } from '../../telemetry/log.ts';
import type { Delivery, Failure, Outcome, SubscriptionPolicy } from '../engine.ts';
import { isTransient, Link } from './link.ts';
import type { Place } from './places.ts';

/** Where a delivery is, for this engine. */
export interface Receipt {
  readonly worker: ShardWorker;
  readonly workerId: string;
  readonly lease: string;
  readonly subscription: number;
  readonly position: string;
  readonly priority: number;
  readonly turn: number;
}

export interface ShardWant {
  /** `topic/name` */
  readonly subscription: string;
  readonly count: number;
  readonly suspect: boolean;
}

export interface ShardWorkerOptions {
  readonly place: Place;
  readonly name: string;
  readonly leaseMs: number;
  readonly policies: readonly SubscriptionPolicy[];
  /** Makes the schema and says which subscriptions there are; @returns their numbers, by `topic/name`. */
  readonly declare: () => Promise<Map<string, number>>;
  readonly wake: () => void;
  readonly lost: (deliveries: Delivery[]) => void;
  /** For tests alone: completions go without the turn. */
  readonly unguarded: boolean;
}

interface TakenRow {
  lease: string;
  position: string;
  message: string;
  subscription: number;
  turn: number;
  priority: number;
  attempts: number;
  suspect: boolean;
  key: string | null;
  payload: string;
}

interface Held {
  readonly delivery: Delivery;
  readonly lease: string;
}

/** Claims begin at the lowest position known, but at the beginning every so often (README.md, traps). */
const SWEEP_MS = 200;
const LOWEST = { priority: -32_768, position: '0' };
const FLUSH_MOST = 2_000;
const FIRST_PAUSE_MS = 50;

/** Of sessions whose statements are all short and by index: no plan of an empty table is to be kept for a full one. */
const PLANS =
  'set enable_seqscan = off; set enable_bitmapscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set enable_sort = off; set plan_cache_mode = force_generic_plan; set jit = off; set lock_timeout = 3000';

interface Settling {
  readonly held: Held | undefined;
  readonly outcome: Outcome;
  readonly resolve: (lost: boolean) => void;
}

export class ShardWorker {
  readonly #options: ShardWorkerOptions;
  readonly #ear: Link;
  readonly #hand: Link;
  #workerId = '';
  #numbers = new Map<string, number>();
  #names = new Map<number, { topic: string; name: string }>();
  readonly #held = new Map<string, Held>();
  readonly #leases = new Map<string, number>();
  readonly #doneLeases: string[] = [];
  readonly #floors = new Map<number, { priority: number; position: string }>();
  #sweptAt = 0;
  #settling: Settling[] = [];
  #isFlushing = false;
  /** Completed within transactions of their own: to be counted. */
  readonly #uncounted = new Map<number, number>();
  #registering: Promise<void> | undefined;

  constructor(options: ShardWorkerOptions) {
    this.#options = options;
    const { place } = options;
    const open = () => place.open();
    this.#ear = new Link({
      shard: place.id,
      open,
      greet: async client => {
        // What is lost of a claim in a crash is claimed again: nobody was told that it is kept.
        await client.query(`${PLANS}; set synchronous_commit = off`);
        if (this.#workerId) await client.query(`listen banyan_queue_${this.#workerId}`);
      },
      onNotification: () => options.wake(),
      onBreak: () => options.wake(),
    });
    this.#hand = new Link({
      shard: place.id,
      open,
      greet: async client => {
        await client.query(PLANS);
      },
    });
  }

  get place(): Place {
    return this.#options.place;
  }

  /** How long until it makes sense to ask, in milliseconds. */
  get pauseMs(): number {
    return this.#ear.pauseMs;
  }

  get inHand(): number {
    return this.#held.size;
  }

  /** @returns what is this worker's now. @throws ShardAway and what the server says */
  async take(wants: readonly ShardWant[], sleeps: boolean): Promise<Delivery[]> {
    await this.#register();
    const wanted = wants
      .map(want => ({ ...want, number: this.#numbers.get(want.subscription) }))
      .filter(({ number, count }) => number !== undefined && count > 0)
      .sort((a, b) => a.number! - b.number!);
    if (wanted.length === 0) return [];
    const now = performance.now();
    const sweeps = now - this.#sweptAt >= SWEEP_MS;
    if (sweeps) this.#sweptAt = now;
    const first = await this.#claim(wanted, sleeps, sweeps);
    const short = wanted.filter(
      ({ number, count }) => first.filter(row => row.subscription === number).length < count,
    );
    // Whatever stands before the floor may be ready by now.
    const again =
      !sweeps && short.length > 0
        ? await this.#claim(
            short.map(want => less(want, first)),
            sleeps,
            true,
          )
        : [];
    return [...first, ...again].map(row => this.#hold(row));
  }

  async #claim(
    wanted: readonly (ShardWant & { number: number | undefined })[],
    sleeps: boolean,
    sweeps: boolean,
  ): Promise<TakenRow[]> {
    const floors = wanted.map(({ number }) =>
      sweeps ? LOWEST : (this.#floors.get(number!) ?? LOWEST),
    );
    const done = this.#doneLeases.splice(0);
    const workerId = this.#workerId;
    try {
      const { rows } = await this.#ear.query<TakenRow>({
        name: 'banyan_queue_take',
        text: 'select * from banyan_queue.take($1, $2, $3::bigint[], $4::int[], $5::int[], $6::boolean[], $7::int[], $8::bigint[])',
        values: [
          workerId,
          sleeps,
          done.length > 0 ? done : null,
          wanted.map(({ number }) => number),
          wanted.map(({ count }) => count),
          wanted.map(({ suspect }) => suspect),
          floors.map(({ priority }) => priority),
          floors.map(({ position }) => position),
        ],
      });
      for (const { number } of wanted) {
        const lowest = rows.find(row => row.subscription === number && !row.suspect);
        if (lowest) this.#floors.set(number!, lowest);
        else if (sweeps) this.#floors.delete(number!);
      }
      return rows;
    } catch (error) {
      this.#doneLeases.push(...done);
      if ((error as { code?: string }).code === 'BQ001') this.#forgotten(workerId);
      throw error;
    }
  }

  #hold(row: TakenRow): Delivery {
    const { topic, name } = this.#names.get(row.subscription)!;
    const receipt: Receipt = {
      worker: this,
      workerId: this.#workerId,
      lease: row.lease,
      subscription: row.subscription,
      position: row.position,
      priority: row.priority,
      turn: row.turn,
    };
    const delivery: Delivery = {
      id: row.message,
      topic,
      subscription: name,
      payload: row.payload,
      key: row.key ?? undefined,
      attempt: row.attempts + 1,
      isSuspect: row.suspect,
      group: this.#options.place.id,
      receipt,
    };
    this.#held.set(heldKey(receipt), { delivery, lease: row.lease });
    this.#leases.set(row.lease, (this.#leases.get(row.lease) ?? 0) + 1);
    return delivery;
  }

  /** It is settled, however. */
  #letGo(delivery: Delivery): void {
    const receipt = delivery.receipt as Receipt;
    if (!this.#held.delete(heldKey(receipt))) return;
    const left = (this.#leases.get(receipt.lease) ?? 1) - 1;
    if (left > 0) this.#leases.set(receipt.lease, left);
    else {
      this.#leases.delete(receipt.lease);
      this.#doneLeases.push(receipt.lease);
    }
  }

  /** Resolves when it is durable. @returns whether it was not this worker's any more */
  complete(outcome: Outcome): Promise<boolean> {
    return new Promise(resolve => {
      this.#settling.push({ held: undefined, outcome, resolve });
      if (!this.#isFlushing) void this.#flush();
    });
  }

  /** It was deleted in a transaction of its own, which has been committed. */
  noteCompleted(deliveries: readonly Delivery[]): void {
    for (const delivery of deliveries) {
      const { subscription } = delivery.receipt as Receipt;
      this.#letGo(delivery);
      this.#uncounted.set(subscription, (this.#uncounted.get(subscription) ?? 0) + 1);
    }
  }

  async #flush(): Promise<void> {
    this.#isFlushing = true;
    // What else is completed in this turn of the event loop goes with it.
    await new Promise(setImmediate);
    while (this.#settling.length > 0) {
      const portion = this.#settling.splice(0, FLUSH_MOST);
      const groups = Map.groupBy(
        portion,
        ({ outcome }) => receiptOf(outcome.delivery).subscription,
      );
      for (const [subscription, group] of groups) await this.#flushGroup(subscription, group);
    }
    this.#isFlushing = false;
  }

  /** Tried for as long as the lease may last: until it is known what became of them. */
  async #flushGroup(subscription: number, group: readonly Settling[]): Promise<void> {
    const receipts = group.map(({ outcome }) => receiptOf(outcome.delivery));
    const hasResults = group.some(({ outcome }) => outcome.result !== undefined);
    const results = hasResults ? group.filter(({ outcome }) => outcome.result !== undefined) : [];
    const query = {
      name: 'banyan_queue_complete',
      text: 'select banyan_queue.complete($1, $2, $3::bigint[], $4::smallint[], $5::int[], $6::bigint[], $7::text[], $8) as lost',
      values: [
        receipts[0]!.workerId,
        subscription,
        `{${receipts.map(({ position }) => position).join(',')}}`,
        numbersOrNull(receipts.map(({ priority }) => priority)),
        numbersOrNull(receipts.map(({ turn }) => turn)),
        results.length > 0
          ? group.map(({ outcome }) => (outcome.result === undefined ? null : outcome.delivery.id))
          : null,
        results.length > 0 ? group.map(({ outcome }) => outcome.result ?? null) : null,
        !this.#options.unguarded,
      ],
    };
    let lost = new Set<string>();
    let wasSent = false;
    const rows = await this.#insist(async () => {
      try {
        return (await this.#hand.query<{ lost: string[] | null }>(query)).rows;
      } catch (error) {
        wasSent ||= (error as { wasSent?: boolean }).wasSent === true;
        throw error;
      }
    });
    // When an earlier try may have done it, what is gone may have gone by that.
    if (rows && !wasSent) lost = new Set(rows[0]?.lost ?? []);
    for (const { outcome, resolve } of group) {
      this.#letGo(outcome.delivery);
      resolve(!rows || lost.has(receiptOf(outcome.delivery).position));
    }
  }

  /** @returns undefined when it could not be done within the lease, by which others have what it was about */
  async #insist<T>(work: () => Promise<T>): Promise<T | undefined> {
    const until = performance.now() + this.#options.leaseMs;
    for (;;) {
      try {
        return await work();
      } catch (error) {
        if (!isTransient(error)) log.error({ err: error }, 'the queue could not settle messages');
        if (!isTransient(error) || performance.now() >= until) return undefined;
        await new Promise(resolve =>
          setTimeout(resolve, Math.max(FIRST_PAUSE_MS, this.#hand.pauseMs)),
        );
      }
    }
  }

  /** @returns those that were not this worker's any more */
  async fail(failures: readonly Failure[]): Promise<Delivery[]> {
    const lost: Delivery[] = [];
    const groups = Map.groupBy(failures, ({ delivery }) => receiptOf(delivery).subscription);
    for (const [subscription, group] of groups) {
      const receipts = group.map(({ delivery }) => receiptOf(delivery));
      const query = {
        text: 'select banyan_queue.fail($1, $2, $3::bigint[], $4::smallint[], $5::int[], $6::text[], $7::float8[]) as lost',
        values: [
          receipts[0]!.workerId,
          subscription,
          ...columnsOf(receipts),
          group.map(({ error }) => error.replaceAll('\0', '')),
          group.map(({ retryInMs }) => retryInMs ?? null),
        ],
      };
      const rows = await this.#insist(
        async () => (await this.#hand.query<{ lost: string[] }>(query)).rows,
      );
      const gone = new Set(rows?.[0]?.lost ?? []);
      for (const { delivery } of group) {
        this.#letGo(delivery);
        if (!rows || gone.has(receiptOf(delivery).position)) lost.push(delivery);
      }
    }
    return lost;
  }

  async handBack(deliveries: readonly Delivery[]): Promise<void> {
    const groups = Map.groupBy(deliveries, delivery => receiptOf(delivery).subscription);
    for (const [subscription, group] of groups) {
      const receipts = group.map(receiptOf);
      await this.#insist(() =>
        this.#hand.query({
          text: 'select banyan_queue.hand_back($1, $2, $3::bigint[], $4::smallint[], $5::int[])',
          values: [receipts[0]!.workerId, subscription, ...columnsOf(receipts)],
        }),
      );
      for (const delivery of group) this.#letGo(delivery);
    }
  }

  async progress(delivery: Delivery, done: number, text: string | undefined): Promise<void> {
    await this.#hand.query({
      text: `with kept as (
          insert into banyan_queue.result as r (message, state, progress, value, expires_at)
          select $1, 'running', $2, $3, clock_timestamp() + interval '1 day' + s.keep_results_ms * interval '1 ms'
          from banyan_queue.subscription s where s.id = $4 and s.keep_results_ms > 0
          on conflict (message) do update set progress = excluded.progress, value = excluded.value
          where r.state = 'running' returning message)
        select pg_notify('banyan_queue_results', message::text) from kept`,
      values: [delivery.id, done, text ?? null, receiptOf(delivery).subscription],
    });
  }

  async keepResult(delivery: Delivery, json: string): Promise<void> {
    await this.#insist(() =>
      this.#hand.query({
        text: `select banyan_queue.keep_result($1, 'done', $2, keep_results_ms)
          from banyan_queue.subscription where id = $3`,
        values: [delivery.id, json, receiptOf(delivery).subscription],
      }),
    );
  }

  /** Says that it is alive, and takes leases away from those who are not. */
  async beat(): Promise<void> {
    if (!this.#workerId) return this.#register();
    const workerId = this.#workerId;
    const { rowCount } = await this.#ear.query({
      name: 'banyan_queue_beat',
      text: `update banyan_queue.worker set expires_at = clock_timestamp() + lease_ms * interval '1 ms' where id = $1`,
      values: [workerId],
    });
    if (rowCount === 0) {
      this.#forgotten(workerId);
      await this.#register();
    }
  }

  async keepHouse(): Promise<void> {
    for (const [subscription, count] of [...this.#uncounted]) {
      this.#uncounted.delete(subscription);
      await this.#hand
        .query({
          text: 'select banyan_queue.count_up($1, $2, $3, 0, 0)',
          values: [this.#workerId, subscription, count],
        })
        .catch(() =>
          this.#uncounted.set(subscription, (this.#uncounted.get(subscription) ?? 0) + count),
        );
    }
    await this.#hand.query({ text: 'select banyan_queue.reap()' });
  }

  async tidy(): Promise<void> {
    await this.#hand.query({ text: 'select banyan_queue.tidy()' });
  }

  #register(): Promise<void> {
    if (this.#workerId) return Promise.resolve();
    this.#registering ??= this.#makeRow().finally(() => {
      this.#registering = undefined;
    });
    return this.#registering;
  }

  async #makeRow(): Promise<void> {
    const { declare, name, leaseMs, policies } = this.#options;
    this.#numbers = await declare();
    this.#names = new Map(
      policies.flatMap(({ topic, name: own }) => {
        const number = this.#numbers.get(`${topic}/${own}`);
        return number === undefined ? [] : [[number, { topic, name: own }]];
      }),
    );
    const workerId = nextId();
    await this.#ear.query({
      text: `insert into banyan_queue.worker (id, name, lease_ms, expires_at, subscriptions)
        values ($1, $2, $3::int, clock_timestamp() + $3::int * interval '1 ms', $4)`,
      values: [workerId, name, leaseMs, [...this.#names.keys()]],
    });
    await this.#ear.query({ text: `listen banyan_queue_${workerId}` });
    this.#workerId = workerId;
  }

  /** All that it had in hand under that row is others'. */
  #forgotten(workerId: string): void {
    if (this.#workerId !== workerId) return;
    this.#workerId = '';
    this.#leases.clear();
    this.#doneLeases.length = 0;
    this.#floors.clear();
    const lost = [...this.#held.values()].map(({ delivery }) => delivery);
    this.#held.clear();
    if (lost.length > 0) this.#options.lost(lost);
    this.#options.wake();
  }

  async close(): Promise<void> {
    const left = [...this.#held.values()].map(({ delivery }) => delivery);
    try {
      if (left.length > 0) await this.handBack(left);
      if (this.#workerId) {
        await this.keepHouse();
        await this.#hand.query({
          text: 'select banyan_queue.forget($1)',
          values: [this.#workerId],
        });
      }
    } catch (error) {
      log.debug({ err: error }, 'a worker could not say goodbye; its lease runs out');
    }
    await Promise.all([this.#ear.close(), this.#hand.close()]);
  }
}

export const receiptOf = (delivery: Delivery): Receipt => delivery.receipt as Receipt;

/** By which rows of deliveries are found: their positions, priorities and turns. */
export const columnsOf = (receipts: readonly Receipt[]) => [
  receipts.map(({ position }) => position),
  receipts.map(({ priority }) => priority),
  receipts.map(({ turn }) => turn),
];

const heldKey = ({ subscription, position, turn }: Receipt) =>
  `${subscription}/${position}/${turn}`;

const numbersOrNull = (numbers: readonly number[]) =>
  numbers.some(number => number !== 0) ? numbers : null;

function less<W extends ShardWant & { number: number | undefined }>(
  want: W,
  got: readonly TakenRow[],
): W {
  const own = got.filter(row => row.subscription === want.number);
  const suspect = want.suspect && !own.some(row => row.suspect);
  return { ...want, suspect, count: want.count - own.length };
}
