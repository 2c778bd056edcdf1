/**
 * Reads a query's tree: which tables it reads and writes, and whatever keeps it from a standby.
 *
 * Holds true here:
 * - Every node is visited, known or not: what a version of the grammar adds is looked into, not skipped.
 * - A table's name that a CTE hides is that CTE, by PostgreSQL's rules of visibility.
 * - Functions are found wherever they hide: called by name, behind an operator, a cast, a type's check, a
 *   `row.name`, an aggregate's parts; and, through the catalog, in views and policies. What a function's
 *   body does is invisible: its volatility decides.
 *
 * Not looked at: the functions that make up a user's own operator classes (comparisons that sort and group).
 * PostgreSQL takes them for immutable as well.
 */
import type {
  A_Expr,
  A_Indirection,
  ColumnRef,
  FuncCall,
  JoinExpr,
  Node,
  RangeVar,
  SubLink,
  TypeName,
  WithClause,
} from 'libpg-query';
import { builtin } from './builtins.ts';
import type { Catalog, Verdict } from './catalog.ts';
import type { FactsBuilder, TableRole } from './facts.ts';

export interface RouteOptions {
  /**
   * Whether foreign tables may be read through a standby: its foreign server has to be reachable from there,
   * and what it answers is not bound to what the standby has replayed.
   * Default: false.
   */
  readonly foreignTablesAnywhere?: boolean;
}

/** Names of the CTEs that can be seen. */
type Scope = ReadonlySet<string>;

const NO_SCOPE: Scope = new Set();

/** Fields that hold a node without saying of which type. */
const FIELD_TYPES: Record<string, string> = {
  relation: 'RangeVar',
  rel: 'RangeVar',
  larg: 'SelectStmt',
  rarg: 'SelectStmt',
  typeName: 'TypeName',
};

/** Words that became syntax after 15 and may name a user's function on an older server. */
const FUNCTIONS_THAT_BECAME_SYNTAX: Record<string, readonly string[]> = {
  JsonFuncExpr: ['json_exists', 'json_query', 'json_value'],
  JsonScalarExpr: ['json_scalar'],
  JsonSerializeExpr: ['json_serialize'],
  JsonParseExpr: ['json'],
  JsonObjectConstructor: ['json_object'],
  JsonArrayConstructor: ['json_array'],
  JsonArrayQueryConstructor: ['json_array'],
  JsonObjectAgg: ['json_objectagg'],
  JsonArrayAgg: ['json_arrayagg'],
  JsonTable: ['json_table'],
  MergeSupportFunc: ['merge_action'],
};

/** What stands behind an operator that the grammar has a word of its own for. */
const OPERATORS_OF_KIND: Partial<Record<NonNullable<A_Expr['kind']>, readonly string[]>> = {
  AEXPR_BETWEEN: ['>=', '<='],
  AEXPR_NOT_BETWEEN: ['<', '>'],
  AEXPR_BETWEEN_SYM: ['>=', '<='],
  AEXPR_NOT_BETWEEN_SYM: ['<', '>'],
};

const LOCK_WORDS: Record<string, string> = {
  LCS_FORKEYSHARE: 'FOR KEY SHARE',
  LCS_FORSHARE: 'FOR SHARE',
  LCS_FORNOKEYUPDATE: 'FOR NO KEY UPDATE',
  LCS_FORUPDATE: 'FOR UPDATE',
};

const WRITE_WORDS: Record<string, string> = {
  InsertStmt: 'inserts into',
  UpdateStmt: 'updates',
  DeleteStmt: 'deletes from',
  MergeStmt: 'merges into',
};

type Fields = Readonly<Record<string, unknown>>;

export class QueryReader {
  readonly #catalog: Catalog;
  readonly #facts: FactsBuilder;
  readonly #options: RouteOptions;

  constructor(catalog: Catalog, facts: FactsBuilder, options: RouteOptions) {
    this.#catalog = catalog;
    this.#facts = facts;
    this.#options = options;
  }

  /** Reads a statement or an expression. */
  read(node: Node): void {
    const cast = this.#catalog.unsafeImplicitCast;
    if (cast) this.#facts.reason('volatile-function', `may cast ${cast}, which no text shows`);
    this.#visitField('', node, NO_SCOPE);
  }

  /** A table that the statement itself names, outside of any query. */
  table(relation: RangeVar | undefined, role: TableRole): void {
    if (relation) this.#table(relation, role, NO_SCOPE);
  }

  #visitField(name: string, value: unknown, scope: Scope): void {
    if (typeof value !== 'object' || value === null) return;
    if (Array.isArray(value)) {
      for (const item of value) this.#visitField(name, item, scope);
      return;
    }
    const type = FIELD_TYPES[name];
    // TABLESAMPLE's relation says its type although its field could.
    if (type && !(type in value)) this.#visit(type, value as Fields, scope);
    else this.#visitFields(value as Fields, scope);
  }

  #visitFields(fields: Fields, scope: Scope): void {
    for (const [name, value] of Object.entries(fields)) {
      const first = name.charCodeAt(0);
      // Types begin with a capital, fields do not.
      if (first >= 65 && first <= 90) this.#visit(name, value as Fields, scope);
      else this.#visitField(name, value, scope);
    }
  }

  #visit(type: string, fields: Fields, scope: Scope): void {
    switch (type) {
      case 'SelectStmt':
      case 'InsertStmt':
      case 'UpdateStmt':
      case 'DeleteStmt':
      case 'MergeStmt':
        this.#statement(type, fields, scope);
        return;
      case 'RangeVar':
        this.#table(fields as RangeVar, 'read', scope);
        return;
      case 'LockingClause':
        // Its tables are named in FROM as well, there by their own names and here by their aliases.
        this.#facts.reason(
          'locks-rows',
          `locks rows (${LOCK_WORDS[String(fields.strength)] ?? 'FOR …'})`,
        );
        return;
      case 'FuncCall':
        this.#function(fields as FuncCall);
        break;
      case 'A_Expr':
        this.#expression(fields as A_Expr);
        break;
      case 'SubLink':
        this.#sublink(fields as SubLink);
        break;
      case 'SortBy':
        this.#operator(fields.useOp as Node[] | undefined, 2);
        break;
      case 'CaseExpr':
        if (fields.arg) this.#operatorNamed(undefined, '=', 2);
        break;
      case 'JoinExpr':
        if ((fields as JoinExpr).usingClause) this.#operatorNamed(undefined, '=', 2);
        break;
      case 'TypeName':
        this.#type(fields as TypeName);
        break;
      case 'ColumnRef':
        this.#rowFunction((fields as ColumnRef).fields?.slice(1));
        break;
      case 'A_Indirection':
        this.#rowFunction((fields as A_Indirection).indirection);
        break;
      case 'RangeTableSample':
        this.#sample(fields.method as Node[] | undefined);
        break;
    }
    for (const name of FUNCTIONS_THAT_BECAME_SYNTAX[type] ?? []) this.#olderFunction(name);
    this.#visitFields(fields, scope);
  }

  #statement(type: string, fields: Fields, outer: Scope): void {
    const { withClause, relation, intoClause, ...rest } = fields;
    const scope = this.#commonTables(withClause as WithClause | undefined, outer);
    if (type !== 'SelectStmt') {
      // The target is never a CTE.
      const target = relation as RangeVar;
      this.#facts.reason('writes-rows', `${WRITE_WORDS[type]} ${nameOf(target)}`);
      this.#table(target, 'written', NO_SCOPE);
    }
    if (intoClause) this.into((intoClause as { rel?: RangeVar }).rel, 'SELECT INTO');
    this.#visitFields(rest, scope);
  }

  /** SELECT INTO and CREATE TABLE AS make a table. */
  into(target: RangeVar | undefined, what: string): void {
    if (!target) return;
    this.#facts.reason('changes-schema', `creates ${nameOf(target)} (${what})`);
    this.table(target, 'defined');
    if (!isTemporary(target)) this.#facts.changesCatalog();
  }

  /** @returns the names that the statement sees besides those of `outer` */
  #commonTables(clause: WithClause | undefined, outer: Scope): Scope {
    if (!clause?.ctes) return outer;
    const scope = new Set(outer);
    const tables = clause.ctes.flatMap(node =>
      'CommonTableExpr' in node ? node.CommonTableExpr : [],
    );
    // Only a recursive one sees itself and those after it.
    if (clause.recursive) for (const { ctename } of tables) scope.add(ctename ?? '');
    for (const table of tables) {
      this.#visitFields(table as Fields, new Set(scope));
      scope.add(table.ctename ?? '');
    }
    return scope;
  }

  #table(relation: RangeVar, role: TableRole, scope: Scope): void {
    const { schemaname: schema, relname: name = '' } = relation;
    if (schema === undefined && scope.has(name)) return;
    if (isTemporary(relation)) {
      this.#facts.table('pg_temp', name, role);
      this.#facts.reason('temporary', `works on the temporary table ${name}`);
      this.#facts.pin('session', `works on the temporary table ${name}`);
      return;
    }
    const known = this.#catalog.relation(schema, name);
    this.#facts.table(schema ?? (role === 'defined' ? undefined : known?.schema), name, role);
    if (role === 'defined') return;
    if (!known) {
      this.#facts.unknown('table', nameOf(relation));
      return;
    }
    const { trouble } = known;
    if (!trouble) return;
    if (trouble.kind === 'foreign' && this.#options.foreignTablesAnywhere) return;
    this.#facts.reason(trouble.kind, `uses ${known.schema}.${name}, and ${trouble.text}`);
  }

  #function(call: FuncCall): void {
    const [name, schema] = qualified(call.funcname);
    const ordered = call.agg_within_group ? (call.agg_order?.length ?? 0) : 0;
    const count = (call.args?.length ?? 0) + ordered;
    const verdict = this.#catalog.function(schema, name, count);
    // `date '…'` may be written as a call as well: `uuid('…')` is a cast.
    if (verdict.kind === 'unknown' && count === 1) {
      const asType = this.#catalog.type(schema, name);
      if (asType.kind !== 'unknown') {
        this.#judge('function', name, asType);
        return;
      }
    }
    // Settings are safe in a view or a policy, and asked for by themselves they are the session's.
    if (verdict.kind === 'safe' && name !== 'current_setting') return;
    // By name, since what pins has to be known also while nothing is known of the database.
    const does = schema === undefined || schema === 'pg_catalog' ? builtin(name) : undefined;
    if (verdict.kind !== 'builtin' && verdict.kind !== 'safe') {
      this.#judge('function', nameFrom(call.funcname), verdict);
    } else if (!does) {
      this.#judge('function', name, verdict);
    }
    if (!does) return;
    if (name === 'set_config') {
      this.#setConfig(call);
      return;
    }
    const why = `calls ${name}, which ${does.does}`;
    this.#facts.reason(does.kind, why);
    if (does.pins) this.#facts.pin(does.pins, why);
  }

  /** With a literal `true` it is SET LOCAL, which a standby allows unless it opens the way to writes. */
  #setConfig(call: FuncCall): void {
    const [setting, , isLocal] = call.args ?? [];
    const name = constant(setting)?.sval?.sval;
    const local = constant(isLocal)?.boolval?.boolval === true;
    if (local) this.#facts.pin('transaction', 'changes a setting of the transaction');
    else this.#facts.pin('session', 'calls set_config, which changes a setting of the session');
    if (!local || name === undefined || name.toLowerCase().startsWith('transaction_')) {
      this.#facts.reason(
        'session-state',
        'calls set_config, which changes a setting of the session',
      );
    }
  }

  #expression({ kind, name, lexpr, rexpr }: A_Expr): void {
    const operators = kind && OPERATORS_OF_KIND[kind];
    const operands = (lexpr ? 1 : 0) + (rexpr ? 1 : 0);
    if (operators) for (const operator of operators) this.#operatorNamed(undefined, operator, 2);
    else this.#operator(name, operands);
  }

  #sublink({ testexpr, operName }: SubLink): void {
    if (operName) this.#operator(operName, 2);
    // IN (SELECT …) compares without saying so.
    else if (testexpr) this.#operatorNamed(undefined, '=', 2);
  }

  #operator(names: Node[] | undefined, operands: number): void {
    if (!names) return;
    const [name, schema] = qualified(names);
    this.#operatorNamed(schema, name, operands);
  }

  #operatorNamed(schema: string | undefined, name: string, operands: number): void {
    // `!=` is turned into `<>` by the scanner.
    this.#judge('operator', name, this.#catalog.operator(schema, name, operands));
  }

  #type(type: TypeName): void {
    if (!type.names) return;
    const [name, schema] = qualified(type.names);
    // `table.column%TYPE` stands in function definitions only.
    if (type.pct_type) return;
    this.#judge('type', nameFrom(type.names), this.#catalog.type(schema, name));
  }

  #rowFunction(fields: Node[] | undefined): void {
    for (const field of fields ?? []) {
      const name = 'String' in field ? field.String.sval : undefined;
      if (name !== undefined && this.#catalog.hasUnsafeRowFunction(name)) {
        this.#facts.reason(
          'volatile-function',
          `reads .${name}, which may be a call of the function of that name, which is volatile`,
        );
      }
    }
  }

  #sample(method: Node[] | undefined): void {
    const [name] = qualified(method);
    if (name === 'system' || name === 'bernoulli') return;
    this.#judge(
      'sampling method',
      nameFrom(method),
      this.#catalog.function(qualified(method)[1], name, undefined),
    );
  }

  #olderFunction(name: string): void {
    const verdict = this.#catalog.function(undefined, name, undefined);
    if (verdict.kind === 'unsafe') this.#judge('function', name, verdict);
  }

  #judge(what: string, name: string, verdict: Verdict): void {
    if (verdict.kind === 'safe') return;
    if (verdict.kind === 'unknown') {
      this.#facts.unknown(what, name);
      return;
    }
    const verb = what === 'function' ? 'calls' : `uses the ${what}`;
    const link = what === 'type' ? 'and' : 'which';
    this.#facts.reason('volatile-function', `${verb} ${verdict.name}, ${link} ${verdict.why}`);
  }
}

/** The last of a qualified name, and the one before it. */
function qualified(names: Node[] | undefined): [name: string, schema: string | undefined] {
  const parts = (names ?? []).map(node => ('String' in node ? (node.String.sval ?? '') : ''));
  return [parts.at(-1) ?? '', parts.at(-2)];
}

function nameFrom(names: Node[] | undefined): string {
  const [name, schema] = qualified(names);
  return schema === undefined ? name : `${schema}.${name}`;
}

/** Seen by its session alone, which is pinned. */
export function isTemporary({ relpersistence, schemaname }: RangeVar): boolean {
  return relpersistence === 't' || schemaname === 'pg_temp';
}

export function nameOf({ schemaname, relname = '' }: RangeVar): string {
  return schemaname === undefined ? relname : `${schemaname}.${relname}`;
}

/** Protobuf leaves out zero, false and the empty string: `{ ival: {} }` is 0. */
function constant(node: Node | undefined) {
  return node && 'A_Const' in node ? node.A_Const : undefined;
}
