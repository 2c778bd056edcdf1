/**
 * From a statement's tree to its plan. Pure.
 *
 * Holds true here: a plan that is given is proven right for the placement that it was drawn from; what is not
 * proven is refused, with what to do instead. What PostgreSQL would refuse it gets to refuse itself.
 */
import type { CopyStmt, ExplainStmt, InsertStmt, Node, RawStmt, SelectStmt } from 'libpg-query';
import type { StatementFacts } from '../../route/facts.ts';
import type { Parser } from '../../route/parser.ts';
import { Analysis } from './analysis.ts';
import { planCopyInto, planCopyOut } from './copy.ts';
import { Equalities } from './equalities.ts';
import { checkSubLinks, planShardedInsert } from './insert.ts';
import { planCopiedInsert } from './insert-copied.ts';
import { withTypes } from './insert-values.ts';
import { Level } from './level.ts';
import { planMerge } from './merge-statement.ts';
import { FIRST, onAll, planOther, tablesOf } from './other-statements.ts';
import { type Placement, qualified } from './placement.ts';
import { type Action, type Merge, PLAIN, type StatementPlan, type Target } from './plan.ts';
import {
  refuseServerFunctions,
  refuseSystemColumns,
  refuseVolatile,
  throwRefusals,
  viewWrite,
} from './refusals.ts';
import { ShardRefused } from './refused.ts';
import { withCtes } from './scope.ts';
import { planScatter } from './select.ts';
import { firstTable, writesInWith } from './select-shape.ts';
import { staged } from './stages.ts';
import { parametersOf, walk } from './tree.ts';
import { recordWrite } from './with-writes.ts';
import { planChange } from './write-plan.ts';

export interface PlanInput {
  readonly text: string;
  readonly statement: Node;
  readonly facts: StatementFacts;
  readonly placement: Placement;
  readonly parser: Parser;
}

/** @throws ShardRefused */
export function planStatement(input: PlanInput): StatementPlan {
  const analysis = new Analysis(input.placement, input.parser);
  const action = actionOf(input, analysis);
  return {
    text: input.text,
    action,
    writes: input.facts.access === 'write',
    parameters: countParameters(input.statement),
    transaction: input.facts.transaction,
    unknownTables: [...analysis.unknownTables],
  };
}

/** @returns -1 when one is left out, which PostgreSQL does not accept */
function countParameters(statement: Node): number {
  const numbers = parametersOf(statement);
  const last = numbers.at(-1) ?? 0;
  return last === numbers.length ? last : -1;
}

function actionOf(input: PlanInput, analysis: Analysis): Action {
  try {
    const action = planOne(input, analysis);
    // PostgreSQL says that it is not there.
    return analysis.unknownTables.size > 0 ? FIRST : action;
  } catch (error) {
    if (analysis.unknownTables.size > 0) return FIRST;
    throw error;
  }
}

function planOne(input: PlanInput, analysis: Analysis): Action {
  const { statement, parser, facts, text } = input;
  if ('SelectStmt' in statement) return planQuery(statement.SelectStmt, input, analysis);
  if ('InsertStmt' in statement) return planInsert(statement.InsertStmt, input, analysis);
  if ('UpdateStmt' in statement || 'DeleteStmt' in statement) {
    return (
      planChange(statement, { analysis, parser, facts }) ??
      staged(statement, text, analysis, parser)
    );
  }
  if ('ExplainStmt' in statement) return planExplain(statement.ExplainStmt, input, analysis);
  if ('CopyStmt' in statement) {
    return planCopy(statement.CopyStmt, input, analysis);
  }
  if ('DeclareCursorStmt' in statement) {
    return planWithin(statement.DeclareCursorStmt.query, input, analysis, 'A cursor');
  }
  if ('PrepareStmt' in statement) {
    return planWithin(statement.PrepareStmt.query, input, analysis, 'PREPARE');
  }
  if ('CreateTableAsStmt' in statement) {
    const { query, into, objtype } = statement.CreateTableAsStmt;
    if (into?.rel?.relpersistence === 't') {
      return planWithin(query, input, analysis, 'CREATE TEMPORARY TABLE AS');
    }
    // Each shard's materialized view is of its own rows, as its view would be.
    if (objtype === 'OBJECT_MATVIEW') return onAll(false);
    planWithin(query, input, analysis, 'CREATE TABLE AS');
    return onAll(false);
  }
  if ('MergeStmt' in statement) {
    return planMerge(statement.MergeStmt, { analysis, parser, facts });
  }
  if ('DoStmt' in statement || 'CallStmt' in statement) {
    throw new ShardRefused(
      `${'DoStmt' in statement ? 'A DO block' : 'CALL'} may read and write any table, and would run on one shard only`,
      'Run its statements one by one, or run it in a migration, which goes to each shard',
    );
  }
  if ('TruncateStmt' in statement || 'LockStmt' in statement) {
    const kinds = tablesOf(statement, analysis);
    if (kinds.every(kind => kind === 'home' || kind === 'system')) return FIRST;
    return onAll(false);
  }
  return planOther(statement);
}

function planCopy(copy: CopyStmt, input: PlanInput, analysis: Analysis): Action {
  const { relation, query } = copy;
  if (query) {
    const inner = planOne({ ...input, statement: query }, analysis);
    if (inner.kind === 'whole') return inner;
    if (inner.kind === 'scatter' && isPlain(inner.merge)) {
      const columns = 'SelectStmt' in query ? (query.SelectStmt.targetList ?? []).length : 0;
      return { ...planCopyOut(copy, columns), target: inner.target };
    }
    throw new ShardRefused(
      `COPY of a query that ${inner.kind === 'scatter' ? 'puts rows of several shards in an order, or together' : 'goes to several shards'}`,
      'Read the rows with pg-query-stream, or copy a query without ORDER BY, LIMIT, DISTINCT and aggregates',
    );
  }
  const table = analysis.table(relation?.schemaname, relation?.relname ?? '');
  if (table.kind === 'home' || table.kind === 'system') return FIRST;
  if (copy.is_from) return planCopyInto(copy, table);
  if (table.kind !== 'sharded') return FIRST;
  const columns = copy.attlist?.length ?? table.columns.filter(one => !one.isGenerated).length;
  return { ...planCopyOut(copy, columns), target: { kind: 'all' } };
}

/** Rows one after the other. */
function isPlain(merge: Merge): boolean {
  if (merge.kind !== 'rows') return false;
  const { keys, distinct, limits } = merge;
  return keys.length === 0 && distinct.kind === 'none' && !limits.count && !limits.offset;
}

// ---- queries

function planQuery(select: SelectStmt, input: PlanInput, analysis: Analysis): Action {
  const { facts, parser, text } = input;
  const level = new Level(analysis, select, undefined, new Map());
  const spread = level.settle(Equalities.NONE, []);
  const { occurrences, homeTables } = analysis;
  if (occurrences.length === 0) {
    throwRefusals(analysis);
    if (homeTables.size > 0 || !select.fromClause || facts.access === 'write') {
      if (analysis.stages.length === 0) return onFirst(select, analysis);
    } else if (analysis.stages.length === 0) return { kind: 'whole', target: { kind: 'any' } };
  }
  refuseServerFunctions(facts, firstSharded(analysis));
  if (select.intoClause) {
    throw new ShardRefused(
      'SELECT INTO makes a table of rows that are on several shards',
      'Create the table first, declare how it is sharded, and use INSERT … SELECT',
    );
  }
  const pin = analysis.pinnedTo();
  if (pin && homeTables.size === 0) return onShards({ kind: 'keys', parts: [[pin]] }, facts);
  throwRefusals(analysis);
  refuseSystemColumns(select);
  if (analysis.stages.length > 0) return staged({ SelectStmt: select }, text, analysis, parser);
  if (spread.kind !== 'sharded' && spread.kind !== 'global') {
    throw new ShardRefused(
      `${firstSharded(analysis)}, which is sharded, and ${[...homeTables].join(', ')}, which is on the first shard only, are read together`,
      'Declare the table that is not sharded as a reference table, or shard it by the same key',
    );
  }
  refuseVolatile(facts, 'goes to several shards');
  return planScatter(level, analysis, parser, text);
}

/** It reads nothing that is sharded; what it writes in WITH may be. */
function onFirst(select: SelectStmt, analysis: Analysis): Action {
  let written: string | undefined;
  walk(select, (type, fields) => {
    if (type !== 'InsertStmt' && type !== 'UpdateStmt' && type !== 'DeleteStmt') return;
    const { relation } = fields as InsertStmt;
    const table = analysis.table(relation?.schemaname, relation?.relname ?? '');
    if (table.kind !== 'home') written = qualified(table);
  });
  if (written !== undefined) {
    throw new ShardRefused(
      `WITH writes ${written}, whose rows are on several shards`,
      'Run the parts one after the other in a transaction',
    );
  }
  return FIRST;
}

function onShards(target: Target, facts: StatementFacts): Action {
  return facts.access === 'write' ? { kind: 'write', target, ...PLAIN } : { kind: 'whole', target };
}

const firstSharded = ({ occurrences }: Analysis) => {
  const table = occurrences[0]?.table;
  return table ? qualified(table) : 'a table';
};

/** A statement that is about a query: only one that runs on the first shard, or on any. */
function planWithin(
  query: Node | undefined,
  input: PlanInput,
  analysis: Analysis,
  what: string,
): Action {
  if (!query) return FIRST;
  const inner = planOne({ ...input, statement: query }, analysis);
  if (inner.kind === 'whole' && inner.target.kind !== 'keys') return FIRST;
  throw new ShardRefused(
    `${what} reads or writes ${firstTable(query) ?? 'a table'}, whose rows are on several shards`,
    'Run the query by itself',
  );
}

function planExplain(explain: ExplainStmt, input: PlanInput, analysis: Analysis): Action {
  const { query, options } = explain;
  if (!query) return FIRST;
  const inner = planOne({ ...input, statement: query }, analysis);
  if (inner.kind === 'whole') return inner;
  if (inner.kind === 'write' && !inner.isCopied && isPinned(inner.target)) return inner;
  const runs = (options ?? []).some(
    node => 'DefElem' in node && node.DefElem.defname === 'analyze',
  );
  if (runs) {
    throw new ShardRefused(
      'EXPLAIN ANALYZE of a statement that goes to several shards',
      'Leave out ANALYZE to see what is sent to each, or name the shard key in the statement',
    );
  }
  return { kind: 'explained', of: inner };
}

/** To one value of the key. */
function isPinned(target: Target): boolean {
  if (target.kind !== 'keys') return false;
  const [pins, ...others] = target.parts;
  return (
    others.length === 0 &&
    (pins ?? []).some(({ sources }) => sources.length === 1 && sources[0]!.kind !== 'elements')
  );
}

// ---- INSERT

function planInsert(given: InsertStmt, input: PlanInput, analysis: Analysis): Action {
  const { parser, text, facts } = input;
  const { relation = {} } = given;
  const table = analysis.table(relation.schemaname, relation.relname ?? '');
  if (table.kind === 'view') {
    const query = analysis.view(table);
    const inside = query && new Level(analysis, query, undefined, new Map());
    if (inside?.settle(Equalities.NONE, []).kind !== 'home') throw viewWrite(table);
  }
  const insert = withTypes(given, table, parser);
  for (const node of insert.withClause?.ctes ?? []) {
    const cte = 'CommonTableExpr' in node ? node.CommonTableExpr : {};
    if (!cte.ctequery || 'SelectStmt' in cte.ctequery) continue;
    analysis.refuse(...writesInWith(cte.ctename ?? ''));
    recordWrite(cte.ctequery, analysis, new Map());
    // All of it on the first shard is as before.
    if (analysis.occurrences.length === 0 && table.kind === 'home') analysis.refusals.pop();
  }
  if (table.kind === 'sharded') {
    throwRefusals(analysis);
    refuseServerFunctions(facts, qualified(table), 'sequence');
    const action = planShardedInsert(insert, table, { analysis, parser, text, facts });
    if (analysis.stages.length > 0 && action.kind !== 'move' && action.kind !== 'write') {
      return staged({ InsertStmt: insert }, text, analysis, parser);
    }
    return action;
  }
  const select =
    insert.selectStmt && 'SelectStmt' in insert.selectStmt
      ? insert.selectStmt.SelectStmt
      : undefined;
  checkSubLinks([insert.onConflictClause, insert.returningClause], analysis, ['reference', 'home']);
  const ctes = withCtes(insert, new Map(), undefined);
  const level = select && new Level(analysis, select, undefined, ctes);
  const spread = level?.settle(Equalities.NONE, []) ?? { kind: 'reference' };
  throwRefusals(analysis);
  if (level && (spread.kind === 'sharded' || spread.kind === 'global')) analysis.stage(level);
  if (analysis.stages.length > 0) return staged({ InsertStmt: insert }, text, analysis, parser);
  if (table.kind !== 'reference') return FIRST;
  // On the first shard the home tables are whole too.
  refuseWriting(facts, qualified(table));
  return planCopiedInsert(insert, table, parser);
}

function refuseWriting({ tables }: StatementFacts, own: string): void {
  const others = tables.filter(
    ({ role, schema, name }) => role === 'written' && `${schema}.${name}` !== own,
  );
  if (others.length > 0) {
    throw new ShardRefused(
      `The statement writes ${own} and ${others.map(({ name }) => name).join(', ')}`,
      'Write each in a statement of its own, in one transaction',
    );
  }
}

export function statementsOf(raw: readonly RawStmt[]): Node[] {
  return raw.flatMap(({ stmt }) => stmt ?? []);
}
