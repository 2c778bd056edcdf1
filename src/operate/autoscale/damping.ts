/**
 * How a number of servers follows what is recommended, calmly. Pure.
 *
 * As Kubernetes' horizontal autoscaler does: up by what was recommended throughout the last moments, down by the most
 * that was recommended in a longer time. So a peak is answered in seconds, and a pause in the load does not cost servers
 * that are needed again a moment later.
 * (https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details)
 */

export interface Sample {
  /** In milliseconds, on any clock that does not go back. */
  at: number;
  servers: number;
}

export interface DampedBounds {
  min: number;
  max: number;
  /** So long fewer must have been recommended before servers are taken away. */
  scaleDownAfterMs: number;
}

export interface Decision {
  servers: number;
  /** For the log and the journal. */
  reason: string;
}

/** A load that lasts shorter than this is a spike. */
export const SCALE_UP_AFTER_MS = 4_000;

/** At most so many times as many at once: what is measured then says how to go on. */
export const LARGEST_STEP = 2;

/** Adds the sample of now, and forgets those that decide nothing any more. */
export function remember<S extends Sample>(
  samples: S[],
  sample: S,
  { scaleDownAfterMs }: DampedBounds,
): void {
  samples.push(sample);
  while (samples[1] && samples[1].at < sample.at - scaleDownAfterMs) samples.shift();
}

/**
 * @param samples the oldest first; the last is of now
 * @param recommend how many servers a sample asks for
 * @param describe what it shows, in words
 * @returns undefined to leave everything as it is
 */
export function decideCalmly<S extends Sample>(
  samples: readonly S[],
  bounds: DampedBounds,
  recommend: (sample: S) => number,
  describe: (sample: S) => string,
): Decision | undefined {
  const now = samples.at(-1);
  if (!now) return undefined;
  const { min, max, scaleDownAfterMs } = bounds;
  const { servers } = now;
  if (servers < min) return { servers: min, reason: `fewer than the least, ${min}` };
  if (servers > max) return { servers: max, reason: `more than the most, ${max}` };

  const up = Math.min(...recommendations(samples, now.at - SCALE_UP_AFTER_MS, recommend));
  if (up > servers) {
    const wanted = Math.min(max, up, Math.max(1, servers * LARGEST_STEP));
    return wanted > servers ? { servers: wanted, reason: describe(now) } : undefined;
  }
  const down = Math.max(...recommendations(samples, now.at - scaleDownAfterMs, recommend));
  if (down < servers) {
    const wanted = Math.max(min, down, servers === 1 ? 0 : Math.ceil(servers / LARGEST_STEP));
    if (wanted >= servers) return undefined;
    const calm = `for ${Math.round(scaleDownAfterMs / 1_000)} s no more were needed`;
    return { servers: wanted, reason: `${describe(now)}; ${calm}` };
  }
  return undefined;
}

/**
 * What each sample since `from` asks for; the present number for a time from which there is no sample, so
 * that nothing is decided on half of what should be known.
 */
function recommendations<S extends Sample>(
  samples: readonly S[],
  from: number,
  recommend: (sample: S) => number,
): number[] {
  const present = samples.at(-1)!.servers;
  const inTime = samples.filter(({ at }) => at >= from);
  const isCovered = samples.some(({ at }) => at <= from);
  return [...inTime.map(recommend), ...(isCovered ? [] : [present])];
}
