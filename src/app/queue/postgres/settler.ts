/**
 * Says what became of deliveries that a worker has in hand on one shard.
 *
 * Holds true here:
 * - What was completed is sent in one statement for all that came while the last one was under way.
 * - It is tried until it is known, or until the lease may be over: then others have it.
 */
import { log } from '../../telemetry/log.ts';
import type { Delivery, Failure, Outcome } from '../engine.ts';
import { isTransient, type Link } from './link.ts';
import { columnsOf, receiptOf } from './receipt.ts';

const FLUSH_MOST = 2_000;
const FIRST_PAUSE_MS = 50;

interface Settling {
  readonly outcome: Outcome;
  readonly resolve: (lost: boolean) => void;
}

export interface SettlerParts {
  readonly hand: Link;
  readonly leaseMs: number;
  /** Told of each delivery that is settled, however. */
  readonly letGo: (delivery: Delivery) => void;
  /** For tests alone: completions go without the turn. */
  readonly unguarded: boolean;
}

export class Settler {
  readonly #hand: Link;
  readonly #leaseMs: number;
  readonly #letGo: (delivery: Delivery) => void;
  readonly #unguarded: boolean;
  #settling: Settling[] = [];
  #isFlushing = false;

  constructor({ hand, leaseMs, letGo, unguarded }: SettlerParts) {
    this.#hand = hand;
    this.#leaseMs = leaseMs;
    this.#letGo = letGo;
    this.#unguarded = unguarded;
  }

  /** Resolves when it is durable. @returns whether it was not this worker's any more */
  complete(outcome: Outcome): Promise<boolean> {
    return new Promise(resolve => {
      this.#settling.push({ outcome, resolve });
      if (!this.#isFlushing) void this.#flush();
    });
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
        !this.#unguarded,
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
    const until = performance.now() + this.#leaseMs;
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
}

const numbersOrNull = (numbers: readonly number[]) =>
  numbers.some(number => number !== 0) ? numbers : null;
