/**
 * How queues are measured against each other: jobs per second, and the time from publish to start. The contenders take turns, round
 * by round, and the ratios are of the middle rounds.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { defineJob } from '../../src/app/queue/definitions.ts';
import type { Queue } from '../../src/app/queue/types.ts';
import { middle } from './measure.ts';

/** Callers at a time that publish. */
export const PUBLISHERS = 10;
/** Handlers at a time. */
export const CONCURRENCY = 24;

export const payload = (n: number) => ({
  n,
  text: 'a message of about a hundred bytes, as jobs have them: ids and a few words',
});

/** Numbers of a portion of messages. */
export const numbers = (from: number, count: number) =>
  Array.from({ length: count }, (_, i) => from + i);

export interface Contender {
  readonly name: string;
  publish(from: number, count: number): Promise<unknown>;
  /** @returns how to stop */
  work(handler: (n: number) => void): Promise<() => Promise<unknown>>;
  close(): Promise<unknown>;
}

/**
 * Our queue, wherever it lies.
 * @param open another of it: one publishes, and each worker has its own
 * @param close what is to be done when the publishing one is closed
 */
export function ownQueue(
  name: string,
  open: () => Queue,
  concurrency: number,
  close: () => Promise<unknown>,
): Contender {
  const job = defineJob({ name: 'bench' });
  const publisher = open();
  return {
    name,
    publish: (from, count) =>
      count === 1
        ? publisher.publish(job, payload(from))
        : publisher.publishAll(
            job,
            numbers(from, count).map(n => ({ payload: payload(n) })),
          ),
    work: async handler => {
      const queue = open();
      queue.work(job, each => handler((each.payload as { n: number }).n), { concurrency });
      await queue.ready();
      return () => queue.close();
    },
    close: async () => {
      await publisher.close();
      await close();
    },
  };
}

export interface Amounts {
  readonly rounds: number;
  /** Published in batches, in each go. */
  readonly jobs: number;
  /** Published one by one, in each go. */
  readonly single: number;
  /** Batches published to a worker that has nothing to do: of one; a fifth as many of 100, a fiftieth of 10,000. */
  readonly idle: number;
}

async function publishAll(contender: Contender, count: number, batch: number): Promise<void> {
  let next = 0;
  const callers = batch === 1 ? PUBLISHERS : Math.min(PUBLISHERS, Math.ceil(count / batch));
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (next < count) {
        const from = next;
        next += batch;
        await contender.publish(from, Math.min(batch, count - from));
      }
    }),
  );
}

const perSecondSince = (count: number, begun: number) =>
  count / ((performance.now() - begun) / 1_000);

/** @returns per second: published with no worker there; then handled, from the first to the last */
async function apart(
  contender: Contender,
  count: number,
  batch: number,
): Promise<[number, number]> {
  const begun = performance.now();
  await publishAll(contender, count, batch);
  const published = perSecondSince(count, begun);
  const all = Promise.withResolvers<void>();
  let left = count;
  let first = 0;
  const stop = await contender.work(() => {
    first ||= performance.now();
    if (--left === 0) all.resolve();
  });
  await all.promise;
  const handled = perSecondSince(count - 1, first);
  await stop();
  return [published, handled];
}

/** @returns per second, published to a worker that is there, until the last is handled */
async function together(contender: Contender, count: number, batch: number): Promise<number> {
  const all = Promise.withResolvers<void>();
  let left = count;
  const stop = await contender.work(() => {
    if (--left === 0) all.resolve();
  });
  const begun = performance.now();
  await Promise.all([publishAll(contender, count, batch), all.promise]);
  const flow = perSecondSince(count, begun);
  await stop();
  return flow;
}

/**
 * Published to a worker that has nothing to do, batch by batch.
 * @returns of each message from the call that published it to its start, in milliseconds, sorted
 */
async function latency(contender: Contender, batches: number, batch: number): Promise<number[]> {
  let started = () => {};
  const stop = await contender.work(() => started());
  const times: number[] = [];
  for (let i = 0; i < batches; i++) {
    await delay(20);
    const { promise, resolve } = Promise.withResolvers<void>();
    let left = batch;
    started = () => {
      times.push(performance.now() - begun);
      if (--left === 0) resolve();
    };
    const begun = performance.now();
    await Promise.all([contender.publish(i * batch, batch), promise]);
  }
  await stop();
  return times.sort((a, b) => a - b);
}

/** @returns lines that say how the first fares against the others */
export async function compare(
  contenders: readonly Contender[],
  { rounds, jobs, single, idle }: Amounts,
): Promise<string[]> {
  const found = new Map<string, Map<string, number[]>>();
  const note = (what: string, { name }: Contender, value: number) => {
    const row = found.get(what) ?? new Map<string, number[]>();
    row.set(name, [...(row.get(name) ?? []), value]);
    console.error(what, name, Math.round(value * 100) / 100);
    found.set(what, row);
  };
  for (let round = 0; round < rounds; round++) {
    for (const [batch, count] of [
      [1, single],
      [100, jobs],
      [10_000, jobs],
    ] as const) {
      for (const contender of contenders) {
        const [published, handled] = await apart(contender, count, batch);
        note(`published/s in batches of ${batch}`, contender, published);
        // Of few, some have fetched all before they begin with the first.
        if (batch > 1)
          note(`handled/s of ${count} that were there, published by ${batch}`, contender, handled);
        const flow = await together(contender, count, batch);
        note(`end to end/s in batches of ${batch}, worker running`, contender, flow);
      }
    }
    for (const [batch, batches] of [
      [1, idle],
      [100, Math.ceil(idle / 5)],
      [10_000, Math.ceil(idle / 50)],
    ] as const) {
      for (const contender of contenders) {
        const times = await latency(contender, batches, batch);
        const what = `publish to start, idle, batches of ${batch}`;
        note(`${what}, p50 ms`, contender, times[Math.floor(times.length / 2)]!);
        note(`${what}, p99 ms`, contender, times[Math.floor(times.length * 0.99)]!);
      }
    }
  }
  return [...found].map(([what, row]) => `${what}: ${inWords(what, row)}`);
}

function inWords(what: string, row: ReadonlyMap<string, number[]>): string {
  const isTime = what.endsWith(' ms');
  const [[first, own]] = [...row].map(([name, list]): [string, number] => [name, middle(list)]) as [
    [string, number],
  ];
  return [...row]
    .map(([name, list]) => {
      const value = middle(list);
      const ratio = isTime ? value / own : own / value;
      const shown = isTime ? value.toFixed(2) : Math.round(value).toLocaleString('en');
      return name === first
        ? `${name} ${shown}`
        : `${name} ${shown} (ours is ${ratio.toFixed(2)} times as good)`;
    })
    .join(', ');
}
