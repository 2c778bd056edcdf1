/**
 * Random numbers that are the same for the same seed, everywhere: sfc32 (Chris Doty-Humphrey, PractRand),
 * seeded through splitmix32. `Math.random` cannot be seeded.
 */
export type Random = () => number;

/**
 * A generator of numbers in [0, 1).
 * @param parts what it is for: the seed, a purpose, an index. Any difference gives another sequence
 */
export function randomOf(...parts: number[]): Random {
  let state = 0x9e3779b9;
  for (const part of parts) state = mix(state ^ mix(part >>> 0) ^ Math.floor(part / 2 ** 32));
  let a = mix(state + 0x9e3779b9);
  let b = mix(a + 0x9e3779b9);
  let c = mix(b + 0x9e3779b9);
  let counter = 1;
  const next = () => {
    const t = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + t) | 0;
    return (t >>> 0) / 2 ** 32;
  };
  // The first values still show the seed.
  for (let round = 0; round < 8; round++) next();
  return next;
}

/** A whole number from 0 up to, and without, `below`. */
export function below(random: Random, limit: number): number {
  return Math.floor(random() * limit);
}

export function pick<T>(random: Random, list: readonly T[]): T {
  return list[below(random, list.length)]!;
}

/** The numbers from 0 to `size - 1` in a random order (Fisher and Yates). */
export function shuffled(random: Random, size: number): Uint32Array {
  const order = new Uint32Array(size);
  for (let at = 0; at < size; at++) {
    const other = below(random, at + 1);
    order[at] = order[other]!;
    order[other] = at;
  }
  return order;
}

/**
 * How many of something one person has: a Pareto distribution, so most have few and some very many.
 * @param mean of the distribution before it is cut off at `most`
 */
export function paretoCount(random: Random, mean: number, most: number): number {
  const least = (mean * (TAIL - 1)) / TAIL;
  // The fraction decides by chance, so that means below one come out right too.
  const value = least / (1 - random()) ** (1 / TAIL);
  return Math.min(Math.floor(value + random()), most);
}

/** The exponent of the tail; the smaller, the longer. Social graphs have between 1.5 and 2.5. */
const TAIL = 1.8;

function mix(value: number): number {
  let z = value | 0;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return z ^ (z >>> 15);
}
