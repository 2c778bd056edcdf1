/** How fast something goes, and the middle of several goes. */

/**
 * Closed loop: each of `concurrency` callers begins again as soon as it is answered.
 * @returns calls per second
 * @throws what `work` throws: a benchmark of failures measures nothing
 */
export async function perSecond(
  work: () => Promise<unknown>,
  seconds: number,
  concurrency: number,
): Promise<number> {
  const begun = performance.now();
  const end = begun + seconds * 1_000;
  let count = 0;
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      while (performance.now() < end) {
        await work();
        count++;
      }
    }),
  );
  return count / ((performance.now() - begun) / 1_000);
}

export function middle(list: readonly number[]): number {
  return list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)]!;
}
