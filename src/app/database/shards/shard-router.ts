/**
 * Plans statements over shards and runs them: the planner as the pool sees it.
 *
 * Holds true here: a text is planned once for each state of the catalog and of the map; after that it costs a
 * look-up and a hash. What is refused is refused before anything is sent.
 */
import { LRUCache } from 'lru-cache';
import type pg from 'pg';
import type { Catalog } from '../route/catalog.ts';
import { classify } from '../route/classify.ts';
import type { StatementFacts } from '../route/facts.ts';
import type { Parser } from '../route/parser.ts';
import { execute } from './execute.ts';
import type { LaneStatement, Lanes } from './lanes.ts';
import { TypeNames } from './merge/types.ts';
import type { Placement } from './plan/placement.ts';
import type { Action, StatementPlan } from './plan/plan.ts';
import { ShardRefused } from './plan/refused.ts';
import { planStatement, statementsOf } from './plan/statement.ts';
import { shardsOf } from './plan/values.ts';
import { ALL_AS_TEXT, type Results, Run } from './run.ts';
import { openRows } from './submitted/open-rows.ts';
import type { RowSource } from './submitted/virtual-server.ts';

export interface ShardRouterOptions {
  readonly parser: Parser;
  /** As it is known now. */
  catalog(): Catalog;
  placement(): Placement;
  /** Reads catalog and placement anew: a statement named a table that they do not have. */
  refresh?(): Promise<void>;
  /** Rows that may be held in memory to be put together. Default: 100,000. */
  readonly maxMergedRows?: number;
  /** Default: 10,000 texts. */
  readonly maxEntries?: number;
}

const MAX_MERGED_ROWS = 100_000;
const MAX_ENTRIES = 10_000;
const MAX_BYTES = 64 * 1024 * 1024;
/** Bulk inserts hardly come twice, and their trees are large. */
const MAX_ENTRY_BYTES = 1024 * 1024;
/** Of a plan without its texts, and for each character of its text, since some hold trees. Estimated. */
const PLAN_BYTES = 3_000;
const BYTES_PER_CHARACTER = 20;

interface Entry {
  readonly plan: StatementPlan | undefined;
  readonly refusal: ShardRefused | undefined;
  readonly versions: string;
}

export type QueryConfig = string | pg.QueryConfig | pg.QueryArrayConfig;

export class ShardRouter {
  readonly #options: ShardRouterOptions;
  readonly #entries: LRUCache<string, Entry>;
  readonly #types = new TypeNames();
  #turn = 0;

  constructor(options: ShardRouterOptions) {
    this.#options = options;
    this.#entries = new LRUCache({
      max: options.maxEntries ?? MAX_ENTRIES,
      maxSize: MAX_BYTES,
      maxEntrySize: MAX_ENTRY_BYTES,
      sizeCalculation: (_entry, text) => PLAN_BYTES + text.length * BYTES_PER_CHARACTER,
    });
  }

  /**
   * The plan of a text. A text that does not parse goes to the first shard as it is.
   * @throws ShardRefused
   */
  plan(text: string): StatementPlan {
    const placement = this.#options.placement();
    const catalog = this.#options.catalog();
    const versions = `${placement.version} ${catalog.version}`;
    let entry = this.#entries.get(text);
    if (entry?.versions !== versions) {
      entry = { ...this.#planAnew(text, placement, catalog), versions };
      this.#entries.set(text, entry);
    }
    if (!entry.plan) throw entry.refusal;
    return entry.plan;
  }

  /** The same, when all tables that it names are known, as far as they are there. */
  async settledPlan(text: string): Promise<StatementPlan> {
    const plan = this.plan(text);
    if (plan.unknownTables.length === 0 || !this.#options.refresh) return plan;
    await this.#options.refresh();
    return this.plan(text);
  }

  get maxMergedRows(): number {
    return this.#options.maxMergedRows ?? MAX_MERGED_ROWS;
  }

  /** Runs a statement, or a text of several. */
  async execute(config: QueryConfig, lanes: Lanes, types?: pg.CustomTypesConfig): Promise<Results> {
    return this.#run(statementOf(config, types), lanes);
  }

  /** The rows of a statement in batches. @param lanes in a transaction, which they end with */
  async open(config: QueryConfig, lanes: Lanes): Promise<RowSource> {
    return this.#open(statementOf(config), lanes);
  }

  async #open(statement: LaneStatement, lanes: Lanes): Promise<RowSource> {
    return openRows(await this.#prepare({ ...statement, ...ALL_AS_TEXT }, lanes));
  }

  async #run(statement: LaneStatement, lanes: Lanes): Promise<Results> {
    return execute(await this.#prepare(statement, lanes));
  }

  async #prepare(statement: LaneStatement, lanes: Lanes): Promise<Run> {
    const plan = await this.settledPlan(statement.text);
    return new Run(plan, statement, lanes, {
      placement: this.#options.placement(),
      types: this.#types,
      maxMergedRows: this.maxMergedRows,
      anyShard: () => {
        this.#turn = (this.#turn + 1) % lanes.count;
        return this.#turn;
      },
      again: (other, on) => this.#run(other, on),
      openAgain: (other, on) => this.#open(other, on),
    });
  }

  #planAnew(text: string, placement: Placement, catalog: Catalog): Omit<Entry, 'versions'> {
    const { parser } = this.#options;
    const parsed = parser.parse(text);
    const facts = classify(parsed, catalog);
    const first: StatementPlan = {
      text,
      action: { kind: 'whole', target: { kind: 'first' } },
      writes: facts.access === 'write',
      parameters: 0,
      transaction: facts.transaction,
      unknownTables: [],
    };
    if (parsed.kind === 'syntax-error' || placement.shards === 1) {
      return { plan: first, refusal: undefined };
    }
    try {
      if (parsed.kind !== 'statements') {
        throw new ShardRefused(
          'The statement could not be read, so it is not known which shard it belongs to',
          parsed.kind === 'unavailable'
            ? 'Try it again in a moment'
            : 'Make it shorter, or nest it less deeply',
        );
      }
      const statements = statementsOf(parsed.statements);
      if (statements.length === 0) return { plan: first, refusal: undefined };
      const plans = statements.map(statement =>
        planStatement({
          text,
          statement,
          // Of one within several, what all do counts.
          facts: facts as StatementFacts,
          placement,
          parser,
        }),
      );
      const plan = plans.length === 1 ? plans[0]! : together(first, plans, placement);
      return { plan, refusal: undefined };
    } catch (error) {
      if (error instanceof ShardRefused) return { plan: undefined, refusal: error };
      if (error instanceof RangeError) {
        const refusal = new ShardRefused(
          'The statement is nested too deeply',
          'Nest it less deeply',
        );
        return { plan: undefined, refusal };
      }
      throw error;
    }
  }
}

/** Several statements in one text: they all go to one shard, or all to every shard. */
function together(
  first: StatementPlan,
  plans: readonly StatementPlan[],
  placement: Placement,
): StatementPlan {
  const unknownTables = plans.flatMap(plan => plan.unknownTables);
  const shards = new Set<number | 'all' | 'several'>();
  for (const { action } of plans) {
    const shard = shardOf(action, placement);
    if (shard !== 'any') shards.add(shard);
  }
  const [only = 0, ...others] = shards;
  if (others.length > 0 || only === 'several') {
    throw new ShardRefused(
      'The statements of one text go to different shards',
      'Send them one by one, in a transaction if they belong together',
    );
  }
  const action: Action =
    only === 'all'
      ? { kind: 'write', target: { kind: 'all' }, isCopied: true, isAlone: false }
      : { kind: 'whole', target: { kind: 'shard', shard: only } };
  return { ...first, action, unknownTables };
}

function shardOf(action: Action, placement: Placement): number | 'all' | 'several' | 'any' {
  if (
    action.kind === 'write' &&
    action.target.kind === 'all' &&
    !action.isAlone &&
    !action.computed
  ) {
    return 'all';
  }
  if (action.kind === 'insert' && !action.computed) {
    const pins = action.keys.map(source =>
      shardsOf({ family: action.family, sources: [source] }, [], placement),
    );
    const shards = new Set(pins.flatMap(found => (found ? [...found] : [-1, -2])));
    return shards.size === 1 ? [...shards][0]! : 'several';
  }
  if (action.kind !== 'whole' && action.kind !== 'write' && action.kind !== 'scatter') {
    return 'several';
  }
  const { target } = action;
  if (target.kind === 'first') return 0;
  if (target.kind === 'any') return 'any';
  if (target.kind !== 'keys' || target.parts.length !== 1) return 'several';
  for (const pin of target.parts[0]!) {
    const found = shardsOf(pin, [], placement);
    if (found?.size === 1) return [...found][0]!;
  }
  return 'several';
}

function statementOf(config: QueryConfig, types?: pg.CustomTypesConfig): LaneStatement {
  if (typeof config === 'string') return { text: config, ...(types ? { types } : {}) };
  const { text, values, name } = config;
  const parsers = config.types ?? types;
  const { rowMode } = config as pg.QueryArrayConfig;
  return {
    text,
    ...(values ? { values: [...values] } : {}),
    ...(name ? { name } : {}),
    ...(rowMode ? { rowMode } : {}),
    ...(parsers ? { types: parsers } : {}),
  };
}
