/**
 * Lanes that let each statement be explained where it is sent, by a real run: EXPLAIN ANALYZE over shards.
 *
 * Holds true here: a statement runs twice, once for its plan, which is then undone (a savepoint), and once for its
 * rows, which what comes after may need. Numbers of a sequence are the only thing that is used up by it.
 */
import type pg from 'pg';
import type { LaneOptions, LaneStatement, Lanes } from '../lanes.ts';
import { AS_TEXT } from '../merge/gathered.ts';
import { LEADING } from '../session-words.ts';

/** A statement that was sent, and what its shard says of how it ran. */
export interface Recorded {
  readonly shard: number;
  readonly text: string;
  plan: readonly string[];
}

const SAVEPOINT = 'banyan_explain';
const EXPLAINABLE = /^(?:\(|(?:select|with|insert|update|delete|merge|values|table)\b)/i;

export class RecordingLanes implements Lanes {
  readonly #lanes: Lanes;
  readonly #prefix: string;
  readonly #recorded: Recorded[];

  /** @param recorded gets what is sent, in the order of sending */
  constructor(lanes: Lanes, prefix: string, recorded: Recorded[]) {
    this.#lanes = lanes;
    this.#prefix = prefix;
    this.#recorded = recorded;
  }

  get count(): number {
    return this.#lanes.count;
  }

  get inTransaction(): boolean {
    return this.#lanes.inTransaction;
  }

  async query(
    shard: number,
    statement: LaneStatement,
    options: LaneOptions,
  ): Promise<pg.QueryResult<never>> {
    const { text } = statement;
    if (options.isAside || !EXPLAINABLE.test(text.replace(LEADING, ''))) {
      return this.#lanes.query(shard, statement, options);
    }
    if (options.wantsWrite && !this.inTransaction) {
      return this.atomically(lanes => lanes.query(shard, statement, options));
    }
    const record: Recorded = { shard, text, plan: [] };
    this.#recorded.push(record);
    const say = (words: string) => this.#lanes.query(shard, { text: words }, options);
    if (options.wantsWrite) await say(`savepoint ${SAVEPOINT}`);
    record.plan = await planLines(this.#lanes, shard, this.#prefix, statement, options);
    if (options.wantsWrite) {
      await say(`rollback to savepoint ${SAVEPOINT}`);
      await say(`release savepoint ${SAVEPOINT}`);
    }
    return this.#lanes.query(shard, statement, options);
  }

  atomically<T>(run: (lanes: Lanes) => Promise<T>): Promise<T> {
    const from = this.#recorded.length;
    return this.#lanes.atomically(lanes => {
      // It may run again, when nothing of it was kept.
      this.#recorded.length = from;
      return run(new RecordingLanes(lanes, this.#prefix, this.#recorded));
    });
  }
}

/** What a shard says of a statement. */
export async function planLines(
  lanes: Lanes,
  shard: number,
  prefix: string,
  { text, values }: LaneStatement,
  options: LaneOptions,
): Promise<string[]> {
  const explain = {
    text: `${prefix}${text}`,
    ...(values?.length ? { values } : {}),
    rowMode: 'array',
    types: AS_TEXT,
  } as const;
  const { rows } = await lanes.query(shard, explain, options);
  return (rows as unknown as [string][]).flatMap(([value]) => value.split('\n'));
}
