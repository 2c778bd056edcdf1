/**
 * How many web servers the load asks for. Pure.
 *
 * As Kubernetes' horizontal autoscaler does: a recommendation in proportion to how busy the servers are,
 * nothing for small deviations, up by what was recommended throughout the last moments, down by the most
 * that was recommended in a longer time. So a peak is answered in seconds, and a pause in the load does
 * not cost servers that are needed again a moment later.
 * (https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details)
 */

export interface LoadSample {
  /** In milliseconds, on any clock that does not go back. */
  at: number;
  servers: number;
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

export interface Decision {
  servers: number;
  /** For the log and the journal. */
  reason: string;
}

/** A load that lasts shorter than this is a spike. */
export const SCALE_UP_AFTER_MS = 4_000;

/** Deviations from the target within this are left alone: they come and go. */
const TOLERANCE = 0.1;

/** At most so many times as many at once: what is measured then says how to go on. */
const LARGEST_STEP = 2;

/** @returns undefined to leave everything as it is */
export function decide(samples: LoadSample[], bounds: Bounds): Decision | undefined {
  const now = samples.at(-1);
  if (!now) return undefined;
  const { min, max } = bounds;
  const { servers } = now;
  if (servers < min) return { servers: min, reason: `fewer than the least, ${min}` };
  if (servers > max) return { servers: max, reason: `more than the most, ${max}` };

  const up = Math.min(...recommendations(samples, now.at - SCALE_UP_AFTER_MS, bounds));
  if (up > servers) {
    const wanted = Math.min(max, up, servers * LARGEST_STEP);
    return wanted > servers ? { servers: wanted, reason: describe(now, bounds) } : undefined;
  }
  const down = Math.max(...recommendations(samples, now.at - bounds.scaleDownAfterMs, bounds));
  if (down < servers) {
    const wanted = Math.max(min, down, Math.ceil(servers / LARGEST_STEP));
    if (wanted >= servers) return undefined;
    const calm = `for ${Math.round(bounds.scaleDownAfterMs / 1_000)} s no more were needed`;
    return { servers: wanted, reason: `${describe(now, bounds)}; ${calm}` };
  }
  return undefined;
}

/** How busy one server is on average: its processor or its places for requests, whichever is fuller. */
export function utilisation(sample: LoadSample, { maxConcurrency }: Bounds): number {
  const { servers, processors, inFlight } = sample;
  return Math.max(processors, inFlight / maxConcurrency) / servers;
}

/**
 * What each sample since `from` asks for; the present number for a time from which there is no sample, so
 * that nothing is decided on half of what should be known.
 */
function recommendations(samples: LoadSample[], from: number, bounds: Bounds): number[] {
  const present = samples.at(-1)!.servers;
  const inTime = samples.filter(({ at }) => at >= from);
  const isCovered = samples.some(({ at }) => at <= from);
  return [...inTime.map(sample => recommend(sample, bounds)), ...(isCovered ? [] : [present])];
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
