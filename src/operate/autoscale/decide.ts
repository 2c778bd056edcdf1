/**
 * How many web servers the load asks for: in proportion to how busy they are, nothing for small deviations. Pure.
 */
import { type Decision, decideCalmly, type Sample } from './damping.ts';

export type { Decision } from './damping.ts';
export { SCALE_UP_AFTER_MS } from './damping.ts';

export interface LoadSample extends Sample {
  /** Processors that the servers used, in all: 1.7 of them. */
  processors: number;
  /** Requests that they worked on, in all. */
  inFlight: number;
  /** Requests that waited at the balancer, since every server was full. */
  queued: number;
}

export interface Bounds {
  min: number;
  max: number;
  /** How busy servers are meant to be, from 0 to 1. */
  target: number;
  /** Requests that one server works on at a time. */
  maxConcurrency: number;
  /** So long the load must have been lower before servers are taken away. */
  scaleDownAfterMs: number;
}

/** Deviations from the target within this are left alone: they come and go. */
const TOLERANCE = 0.1;

/** @returns undefined to leave everything as it is */
export function decide(samples: readonly LoadSample[], bounds: Bounds): Decision | undefined {
  return decideCalmly(
    samples,
    bounds,
    sample => recommend(sample, bounds),
    sample => describe(sample, bounds),
  );
}

/** How busy one server is on average: its processor or its places for requests, whichever is fuller. */
export function utilisation(sample: LoadSample, { maxConcurrency }: Bounds): number {
  const { servers, processors, inFlight } = sample;
  return Math.max(processors, inFlight / maxConcurrency) / servers;
}

function recommend(sample: LoadSample, bounds: Bounds): number {
  const ratio = utilisation(sample, bounds) / bounds.target;
  const needed = Math.max(1, Math.ceil(sample.servers * ratio));
  // Who queues is not measured as busy: there is more to do than the servers show.
  if (sample.queued > 0) return Math.max(needed, sample.servers + 1);
  return Math.abs(ratio - 1) <= TOLERANCE ? sample.servers : needed;
}

function describe(sample: LoadSample, bounds: Bounds): string {
  const percent = (part: number) => `${Math.round(part * 100)} %`;
  const busy = `${percent(utilisation(sample, bounds))} busy (meant to be ${percent(bounds.target)})`;
  return sample.queued > 0 ? `${busy}, ${sample.queued} requests waiting at the balancer` : busy;
}
