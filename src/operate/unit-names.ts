/** Names of units that are numbered, such as `web-1`. Pure. */

/** `web-2` before `web-10`. */
export function byNumber(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true });
}

/** Hands out `web-1`, `web-2`, …: the lowest that is free. */
export class UnitNames {
  readonly #prefix: string;
  readonly #taken: Set<string>;

  constructor(prefix: string, taken: Iterable<string> = []) {
    this.#prefix = prefix;
    this.#taken = new Set(taken);
  }

  next(): string {
    for (let number = 1; ; number++) {
      const name = `${this.#prefix}-${number}`;
      if (this.#taken.has(name)) continue;
      this.#taken.add(name);
      return name;
    }
  }

  take(count: number): string[] {
    return Array.from({ length: Math.max(0, count) }, () => this.next());
  }

  release(name: string): void {
    this.#taken.delete(name);
  }
}
