/**
 * What is gathered about one statement while its levels are looked through.
 *
 * Holds true here: nothing is refused at once. A statement all of whose sharded tables are pinned to the same
 * value runs whole on one shard, whatever else it does; only when it is not does the first refusal count.
 */
import type { RangeVar, SelectStmt } from 'libpg-query';
import type { Parser } from '../../route/parser.ts';
import type { Column } from './equalities.ts';
import type { Level } from './level.ts';
import type { KeyFamily, PlacedTable, Placement } from './placement.ts';
import { type Refusal, ShardRefused } from './refused.ts';
import type { Cte, Ctes } from './scope.ts';
import { walk } from './tree.ts';
import type { Pin, ValueSource } from './values.ts';

/** One mention of a sharded table. */
export interface Occurrence {
  readonly table: PlacedTable;
  readonly family: KeyFamily;
  /** The single values that its key is equal to. */
  readonly values: readonly ValueSource[];
}

/** A subquery that is answered by itself, first; its rows then stand in its place. */
export interface Stage {
  readonly select: SelectStmt;
  /** What it may name besides tables. */
  readonly ctes: Ctes;
  /** It is asked only whether it has a row. */
  readonly isExistence: boolean;
  /** The mention of the view whose query it is; undefined: it stands in the statement itself. */
  readonly mention: RangeVar | undefined;
}

/** References to CTEs are looked through each by itself, so their number can grow without bounds. */
const MAX_LEVELS = 2_000;

export class Analysis {
  readonly placement: Placement;
  readonly occurrences: Occurrence[] = [];
  readonly refusals: Refusal[] = [];
  /** Subqueries that have to be answered first, by their trees. */
  readonly stages: Stage[] = [];
  /** Names that the catalog does not have. */
  readonly unknownTables = new Set<string>();
  /** Tables that lie on the first shard only. */
  readonly homeTables = new Set<string>();
  readonly #parser: Parser;
  readonly #inside: Cte[] = [];
  #columns = 0;
  #levels = 0;

  constructor(placement: Placement, parser: Parser) {
    this.placement = placement;
    this.#parser = parser;
  }

  column(name: string, family: KeyFamily | undefined): Column {
    return { id: ++this.#columns, name, family };
  }

  table(schema: string | undefined, name: string): PlacedTable {
    const table = this.placement.table(schema, name);
    if (table) return table;
    this.unknownTables.add(schema === undefined ? name : `${schema}.${name}`);
    return { schema: schema ?? '', name, kind: 'home', columns: [], primaryKey: [] };
  }

  /** A view's query. */
  view(table: PlacedTable): SelectStmt | undefined {
    const parsed = this.#parser.parse(table.definition ?? '');
    if (parsed.kind !== 'statements') return undefined;
    const statement = parsed.statements[0]?.stmt;
    return statement && 'SelectStmt' in statement ? statement.SelectStmt : undefined;
  }

  countLevel(): void {
    if (++this.#levels > MAX_LEVELS) {
      throw new ShardRefused(
        `The statement has more than ${MAX_LEVELS} subqueries, counted each time that a WITH query is used`,
        'Run it in parts',
      );
    }
  }

  refuse(what: string, remedy: string): void {
    this.refusals.push({ what, remedy });
  }

  isWithin(cte: Cte): boolean {
    return this.#inside.includes(cte);
  }

  within<T>(cte: Cte, run: () => T): T {
    this.#inside.push(cte);
    try {
      return run();
    } finally {
      this.#inside.pop();
    }
  }

  /** A subquery that has to be answered before the rest; what is staged within it is then part of that. */
  stage(level: Level, isExistence = false): void {
    const { select, mention } = level;
    if (this.stages.some(stage => stage.select === select)) return;
    const inner = new Set<unknown>();
    walk(select, (_type, fields) => {
      inner.add(fields);
    });
    for (let i = this.stages.length - 1; i >= 0; i--) {
      const { select: other, mention: view } = this.stages[i]!;
      if (inner.has(other) || inner.has(view)) this.stages.splice(i, 1);
    }
    this.stages.push({ select, ctes: level.outerCtes, isExistence, mention });
  }

  /** The value that every mention of a sharded table is pinned to. */
  pinnedTo(): Pin | undefined {
    const [first, ...others] = this.occurrences;
    if (!first) return undefined;
    const source = first.values.find(({ id }) =>
      others.every(
        ({ family, values }) => family === first.family && values.some(value => value.id === id),
      ),
    );
    return source && { family: first.family, sources: [source] };
  }
}
