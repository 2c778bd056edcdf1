/**
 * Which of several replicas gets a read. Pure.
 *
 * Of two that are picked at random the better one: nearly as even as asking all, and many processes that
 * know the same do not run to the same replica (Mitzenmacher, "The power of two choices").
 */

export interface Candidate {
  readonly dataCentre: string;
  /** How long its answers take, in milliseconds, averaged. */
  readonly latencyMs: number;
  /** Statements that it has been given and has not answered. */
  readonly inFlight: number;
}

/**
 * @param candidates those that may answer
 * @param here the data centre of this process: one there goes before all others
 */
export function choose<C extends Candidate>(
  candidates: readonly C[],
  here: string,
  random: () => number = Math.random,
): C | undefined {
  if (candidates.length <= 1) return candidates[0];
  const near = candidates.filter(({ dataCentre }) => dataCentre === here);
  const among = near.length > 0 ? near : candidates;
  const first = Math.floor(random() * among.length);
  if (among.length === 1) return among[0];
  // Another one, each as likely.
  const second = (first + 1 + Math.floor(random() * (among.length - 1))) % among.length;
  const [one, two] = [among[first]!, among[second]!];
  return costOf(two) < costOf(one) ? two : one;
}

function costOf({ latencyMs, inFlight }: Candidate): number {
  return latencyMs * (inFlight + 1);
}
