/**
 * A worker's side on one shard: its row in `worker`, what it has in hand there, and the two connections that it says
 * that over (the ear and the hand, README.md).
 *
 * Holds true here:
 * - What is in hand is known here with its lease; a lease whose deliveries are all settled is given up with the next claim.
 * - A worker that the database does not know any more (its row was taken by `reap`) has nothing in hand: it says
 *   so to those who work on it, and comes back as a new one.
 */
import { nextId } from '../../ids/next-id.ts';
import { log } from '../../telemetry/log.ts';
import type { Delivery, SubscriptionPolicy } from '../engine.ts';
import { Link } from './link.ts';
import type { Place } from './places.ts';
import { heldKey, type Receipt, receiptOf } from './receipt.ts';
import { Settler } from './settler.ts';

export interface ShardWant {
  /** `topic/name` */
  readonly subscription: string;
  readonly count: number;
  readonly suspects: number;
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

/** Of sessions whose statements are all short and by index: no plan of an empty table is to be kept for a full one. */
const PLANS =
  'set enable_seqscan = off; set enable_bitmapscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set enable_sort = off; set plan_cache_mode = force_generic_plan; set jit = off; set lock_timeout = 3000';

export class ShardWorker {
  readonly #options: ShardWorkerOptions;
  readonly #ear: Link;
  readonly #hand: Link;
  /** Says what became of what is in hand. */
  readonly settler: Settler;
  #workerId = '';
  #numbers = new Map<string, number>();
  #names = new Map<number, { topic: string; name: string }>();
  readonly #held = new Map<string, Held>();
  readonly #leases = new Map<string, number>();
  readonly #doneLeases: string[] = [];
  readonly #floors = new Map<number, { priority: number; position: string }>();
  #sweptAt = 0;
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
    this.settler = new Settler({
      hand: this.#hand,
      leaseMs: options.leaseMs,
      letGo: delivery => this.#letGo(delivery),
      unguarded: options.unguarded,
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
        text: 'select * from banyan_queue.take($1, $2, $3::bigint[], $4::int[], $5::int[], $6::int[], $7::int[], $8::bigint[])',
        values: [
          workerId,
          sleeps,
          done.length > 0 ? done : null,
          wanted.map(({ number }) => number),
          wanted.map(({ count }) => count),
          wanted.map(({ suspects }) => suspects),
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
    const receipt = receiptOf(delivery);
    if (!this.#held.delete(heldKey(receipt))) return;
    const left = (this.#leases.get(receipt.lease) ?? 1) - 1;
    if (left > 0) this.#leases.set(receipt.lease, left);
    else {
      this.#leases.delete(receipt.lease);
      this.#doneLeases.push(receipt.lease);
    }
  }

  /** It was deleted in a transaction of its own, which has been committed. */
  noteCompleted(deliveries: readonly Delivery[]): void {
    for (const delivery of deliveries) {
      const { subscription } = receiptOf(delivery);
      this.#letGo(delivery);
      this.#uncounted.set(subscription, (this.#uncounted.get(subscription) ?? 0) + 1);
    }
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
      if (left.length > 0) await this.settler.handBack(left);
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

function less<W extends ShardWant & { number: number | undefined }>(
  want: W,
  got: readonly TakenRow[],
): W {
  const own = got.filter(row => row.subscription === want.number);
  const suspects = own.some(row => row.suspect) ? 0 : want.suspects;
  return { ...want, suspects, count: want.count - own.length };
}
