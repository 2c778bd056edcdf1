/**
 * UPDATE and DELETE: where their rows are.
 *
 * Holds true here:
 * - A statement that writes is looked through as the query of the same tables and conditions; what holds for
 *   that query's rows holds for those that are written.
 * - The copies of a reference table get the same statement, so it may hold nothing that differs from copy to
 *   copy: a volatile function, a LIMIT. The time is asked once, of the first shard.
 */
import type { Node, SelectStmt, UpdateStmt } from 'libpg-query';
import type { StatementFacts } from '../../route/facts.ts';
import type { Parser } from '../../route/parser.ts';
import type { Analysis } from './analysis.ts';
import { Equalities } from './equalities.ts';
import { functionsOf } from './expressions.ts';
import { Level } from './level.ts';
import { type PlacedTable, qualified } from './placement.ts';
import { type Action, COMPUTED_PARAMETER, PLAIN, type WriteAction } from './plan.ts';
import {
  keyChange,
  refuseServerFunctions,
  refuseSystemColumns,
  refuseVolatile,
  throwRefusals,
} from './refusals.ts';
import { ShardRefused } from './refused.ts';
import { partsOf } from './select.ts';
import { clone, replaceNodes, stringOf, target, walk, write } from './tree.ts';
import { valueSource } from './values.ts';
import { asQuery, type Change } from './write-query.ts';

export interface ChangeContext {
  readonly analysis: Analysis;
  readonly parser: Parser;
  readonly facts: StatementFacts;
}

/** @returns undefined when subqueries have to be answered first */
export function planChange(change: Change, context: ChangeContext): Action | undefined {
  const { analysis, parser, facts } = context;
  const statement = 'UpdateStmt' in change ? change.UpdateStmt : change.DeleteStmt;
  const { relation = {} } = statement;
  const table = analysis.table(relation.schemaname, relation.relname ?? '');
  const level = new Level(analysis, asQuery(change, table.schema), undefined, new Map());
  const { kind } = level.settle(Equalities.NONE, []);
  if (table.kind === 'sharded') {
    refuseServerFunctions(facts, qualified(table));
    if ('UpdateStmt' in change) checkKey(change.UpdateStmt, table, level);
    const pin = analysis.pinnedTo();
    if (pin && analysis.homeTables.size === 0) {
      return { kind: 'write', target: { kind: 'keys', parts: [[pin]] }, ...PLAIN };
    }
    throwRefusals(analysis);
    refuseSystemColumns(change);
    if (analysis.stages.length > 0) return undefined;
    refuseVolatile(facts, 'goes to several shards');
    if (level.from.kind !== 'sharded') {
      throw new ShardRefused(
        `It is not known which rows of ${qualified(table)} the statement writes`,
        'Name the shard key in the WHERE clause',
      );
    }
    return { kind: 'write', target: { kind: 'keys', parts: partsOf(level) }, ...PLAIN };
  }
  throwRefusals(analysis);
  if (table.kind === 'reference' || analysis.occurrences.length > 0) refuseSystemColumns(change);
  if (table.kind !== 'reference') {
    if (kind === 'home' || kind === 'reference') {
      return analysis.stages.length > 0 ? undefined : { kind: 'whole', target: { kind: 'first' } };
    }
    throw new ShardRefused(
      `${qualified(table)}, which is on the first shard only, is written by rows of ${analysis.occurrences[0]?.table.name ?? 'a sharded table'}, which are on several`,
      'Declare the table as a reference table, or read the rows in a statement of their own',
    );
  }
  if (analysis.stages.length > 0) return undefined;
  if (kind !== 'reference') {
    throw new ShardRefused(
      `The reference table ${qualified(table)}, which is whole on every shard, is written by rows of ${analysis.occurrences[0]?.table.name ?? [...analysis.homeTables][0]}, which are not`,
      'Read the rows in a statement of their own, and write the values',
    );
  }
  return planCopied(change, table, facts, parser);
}

/** The key may be set to what it is known to be. */
function checkKey({ targetList, relation }: UpdateStmt, table: PlacedTable, level: Level): void {
  for (const item of targetList ?? []) {
    if (!('ResTarget' in item) || item.ResTarget.name !== table.key) continue;
    const source = valueSource(item.ResTarget.val);
    const alias = relation?.alias?.aliasname ?? relation?.relname ?? '';
    const key = level.scope.resolve([
      { String: { sval: alias } },
      { String: { sval: table.key ?? '' } },
    ]);
    const isSame =
      source && key && level.equalities.valuesOf(key).some(value => value.id === source.id);
    if (!isSame) throw keyChange(table);
  }
}

/** Volatile, and known to the router as harmless on a standby; not so when copies have to agree. */
const DIFFERS = new Set([
  'random',
  'random_normal',
  'gen_random_uuid',
  'uuidv4',
  'uuidv7',
  'clock_timestamp',
  'timeofday',
  'pg_backend_pid',
  'uuid_generate_v1',
  'uuid_generate_v4',
]);

const TIMES: Record<string, string> = {
  now: 'timestamptz',
  transaction_timestamp: 'timestamptz',
  statement_timestamp: 'timestamptz',
  SVFOP_CURRENT_DATE: 'date',
  SVFOP_CURRENT_TIME: 'timetz',
  SVFOP_CURRENT_TIME_N: 'timetz',
  SVFOP_CURRENT_TIMESTAMP: 'timestamptz',
  SVFOP_CURRENT_TIMESTAMP_N: 'timestamptz',
  SVFOP_LOCALTIME: 'time',
  SVFOP_LOCALTIME_N: 'time',
  SVFOP_LOCALTIMESTAMP: 'timestamp',
  SVFOP_LOCALTIMESTAMP_N: 'timestamp',
};

function planCopied(
  change: Change,
  table: PlacedTable,
  facts: StatementFacts,
  parser: Parser,
): WriteAction {
  const name = qualified(table);
  refuseVolatile(facts, `writes each copy of the reference table ${name}`);
  const differs = functionsOf(change).find(one => DIFFERS.has(one));
  if (differs) {
    throw new ShardRefused(
      `${differs}() gives each copy of the reference table ${name} another value`,
      'Compute the value first, and give it as a parameter',
    );
  }
  walk(change, (_type, fields) => {
    if (!fields.limitCount && !fields.limitOffset) return;
    throw new ShardRefused(
      `A LIMIT may choose other rows in each copy of the reference table ${name}`,
      'Select the primary keys first, and name them in the WHERE clause',
    );
  });
  const target_ = { kind: 'all' } as const;
  const times: Node[] = [];
  const statement = replaceNodes(clone(change) as Node, node => {
    const type = timeType(node);
    if (!type) return undefined;
    const same = times.findIndex(one => JSON.stringify(one) === JSON.stringify(node));
    const index = same >= 0 ? same : times.push(node) - 1;
    return {
      TypeCast: {
        arg: { ParamRef: { number: COMPUTED_PARAMETER + index } },
        typeName: {
          names: [{ String: { sval: 'pg_catalog' } }, { String: { sval: type } }],
          typemod: -1,
        },
      },
    };
  });
  if (times.length === 0) return { kind: 'write', target: target_, isCopied: true, isAlone: false };
  const query: SelectStmt = {
    targetList: times.map((val, i) => target(val, `v${i + 1}`)),
    limitOption: 'LIMIT_OPTION_DEFAULT',
    op: 'SETOP_NONE',
  };
  return {
    kind: 'write',
    target: target_,
    isCopied: true,
    isAlone: false,
    computed: {
      values: {
        query: write({ SelectStmt: query }, parser),
        parameters: times.map((_one, i) => COMPUTED_PARAMETER + i),
      },
      statement: write(statement, parser),
    },
  };
}

function timeType(node: Node): string | undefined {
  if ('SQLValueFunction' in node) return TIMES[node.SQLValueFunction.op ?? ''];
  if ('FuncCall' in node && !node.FuncCall.args) {
    return TIMES[stringOf(node.FuncCall.funcname?.at(-1)) ?? ''];
  }
  return undefined;
}
