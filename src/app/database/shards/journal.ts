/**
 * What a shard has to be told that joins a transaction after it has begun: its savepoints, and its settings. Pure.
 *
 * Holds true here: replayed in its order on a fresh transaction, the journal leaves it with the savepoints and the
 * settings that one has that was in from the beginning.
 */
export interface JournalEntry {
  readonly text: string;
  readonly values?: unknown[];
}

interface Kept extends JournalEntry {
  /** Of a savepoint. */
  readonly savepoint?: string;
}

export class Journal {
  #entries: Kept[] = [];

  get entries(): readonly JournalEntry[] {
    return this.#entries;
  }

  /** Whether a savepoint of that name is there to go back to. */
  has(name: string): boolean {
    return this.#last(name) >= 0;
  }

  /** SET LOCAL, SET TRANSACTION, set_config, SET CONSTRAINTS. */
  setting(text: string, values?: unknown[]): void {
    this.#entries.push(values ? { text, values } : { text });
  }

  savepoint(name: string, text: string): void {
    this.#entries.push({ text, savepoint: name });
  }

  /** Back to the latest of that name, which stays: what came after it is undone. */
  rollBackTo(name: string): void {
    this.#entries.length = this.#last(name) + 1 || this.#entries.length;
  }

  /** The latest of that name and all after it are savepoints no more; what was set after them stays. */
  release(name: string): void {
    const last = this.#last(name);
    if (last < 0) return;
    this.#entries = this.#entries.filter(({ savepoint }, i) => i < last || savepoint === undefined);
  }

  #last(name: string): number {
    return this.#entries.findLastIndex(({ savepoint }) => savepoint === name);
  }
}
