/**
 * One member of the shard as this process knows it: what it said last, how fast it answers, and, for reads,
 * a pool of connections of its own.
 */
import type pg from 'pg';
import type { Member } from '../../../map/runtime-map.ts';
import type { Position } from '../consistency/position.ts';
import type { Candidate } from './choose.ts';
import type { Answer, Probe } from './probe.ts';

/** Of the average of an answer's time, what one answer counts for. */
const LATENCY_WEIGHT = 0.1;

export class MemberState implements Candidate {
  readonly address: Member;
  readonly key: string;
  /** Numbers the members of this process, for ids that tell them apart. */
  readonly slot: number;
  readonly #makePool: () => pg.Pool;
  #pool: pg.Pool | undefined;
  #retired: { ended: Promise<void>; end: () => void } | undefined;

  /** Its last answer; undefined before the first and when it does not answer. */
  answer: Answer | undefined;
  /** Since when it does not answer, by `performance.now()`; undefined while it does, and before the first question. */
  awaySince: number | undefined;
  /** Why it does not answer. */
  failure: unknown;
  /** Of a standby. */
  lagMs = Number.POSITIVE_INFINITY;
  latencyMs = 1;
  inFlight = 0;
  probe!: Probe;

  constructor(address: Member, slot: number, makePool: () => pg.Pool) {
    this.address = address;
    this.key = keyOf(address);
    this.slot = slot;
    this.#makePool = makePool;
  }

  get dataCentre(): string {
    return this.address.dataCentre;
  }

  /** What a read here sees at least; undefined when that is not known. */
  get replayed(): Position | undefined {
    const { answer } = this;
    if (!answer?.isStandby || answer.timeline === undefined) return undefined;
    return answer as Position;
  }

  /** For reads; made when it is first asked for. */
  get pool(): pg.Pool {
    this.#pool ??= this.#makePool();
    return this.#pool;
  }

  get openPool(): pg.Pool | undefined {
    return this.#pool;
  }

  begin(): void {
    this.inFlight++;
  }

  /** @param begun when, by `performance.now()`; undefined for an answer that says nothing of its speed */
  end(begun: number | undefined): void {
    this.inFlight--;
    if (begun !== undefined) this.noteLatency(performance.now() - begun);
    if (this.#retired && this.inFlight === 0) this.#end();
  }

  /** Also of the monitor's questions: one that is slow once and gets no reads must be able to show that it is not. */
  noteLatency(ms: number): void {
    this.latencyMs += (ms - this.latencyMs) * LATENCY_WEIGHT;
  }

  /** It has left the map: what runs there ends, then its connections go. Resolves when they have. */
  retire(): Promise<void> {
    if (this.#retired) return this.#retired.ended;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#retired = { ended: promise, end: resolve };
    this.answer = undefined;
    this.probe.close();
    if (this.inFlight === 0) this.#end();
    return promise;
  }

  #end(): void {
    const pool = this.#pool;
    if (!pool) this.#retired!.end();
    else if (!pool.ending) pool.end().then(this.#retired!.end, this.#retired!.end);
  }
}

export function keyOf({ host, port }: Member): string {
  return `${host}:${port}`;
}
