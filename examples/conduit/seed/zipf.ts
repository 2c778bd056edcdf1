/**
 * Zipf's law: of `size` things the one of rank k is chosen in proportion to 1 / k^exponent. So people read
 * a few articles very often and most hardly ever. Used for seeding, and by load generators for reads.
 *
 * Rejection-inversion (W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates from
 * monotone discrete distributions", ACM TOMACS 6, 1996): no table, and a constant time for any size.
 */
import type { Random } from './random.ts';

export class Zipf {
  readonly size: number;
  readonly exponent: number;
  readonly #start: number;
  readonly #end: number;
  readonly #shortcut: number;

  /**
   * @param size how many there are, at least 1
   * @param exponent above 0; 1 is Zipf's own
   */
  constructor(size: number, exponent: number) {
    if (!(Number.isInteger(size) && size >= 1)) throw new RangeError(`no Zipf of size ${size}`);
    if (!(exponent > 0)) throw new RangeError(`no Zipf with the exponent ${exponent}`);
    this.size = size;
    this.exponent = exponent;
    this.#start = this.#integral(1.5) - 1;
    this.#end = this.#integral(size + 0.5);
    this.#shortcut = 2 - this.#inverse(this.#integral(2.5) - this.#weight(2));
  }

  /** @returns a rank from 1 to `size` */
  sample(random: Random): number {
    for (;;) {
      const u = this.#end + random() * (this.#start - this.#end);
      const x = this.#inverse(u);
      const rank = Math.min(Math.max(Math.round(x), 1), this.size);
      if (rank - x <= this.#shortcut) return rank;
      if (u >= this.#integral(rank + 0.5) - this.#weight(rank)) return rank;
    }
  }

  /** The area under the weights up to `x`, but for a constant. */
  #integral(x: number): number {
    const log = Math.log(x);
    return expm1Ratio((1 - this.exponent) * log) * log;
  }

  #weight(x: number): number {
    return Math.exp(-this.exponent * Math.log(x));
  }

  #inverse(area: number): number {
    const t = Math.max(area * (1 - this.exponent), -1);
    return Math.exp(log1pRatio(t) * area);
  }
}

/** (e^x − 1) / x, also near 0, where exponents of 1 lead. */
function expm1Ratio(x: number): number {
  return Math.abs(x) > 1e-8 ? Math.expm1(x) / x : 1 + x / 2;
}

/** ln(1 + x) / x, also near 0. */
function log1pRatio(x: number): number {
  return Math.abs(x) > 1e-8 ? Math.log1p(x) / x : 1 - x / 2;
}
