/**
 * From a parsed text and what is known of the database to facts. Pure.
 *
 * Holds true here:
 * - A statement of a kind that is not handled here changes the schema, until somebody says otherwise: the
 *   list of what may run on a standby is the one that is written down.
 * - It never throws, whatever the tree.
 */
import type { CopyStmt, DeclareCursorStmt, ExplainStmt, Node, RangeVar } from 'libpg-query';
import type { Catalog } from './catalog.ts';
import { FactsBuilder, factsOfUnparsed, type ReasonKind, type StatementFacts } from './facts.ts';
import type { Parsed } from './parser.ts';
import { isTemporary, nameOf, QueryReader, type RouteOptions } from './query-reader.ts';
import { readSession } from './session-statements.ts';
import { readTransaction } from './transaction.ts';

/** CURSOR_OPT_HOLD, src/include/nodes/parsenodes.h. */
const CURSOR_HOLD = 0x0020;

/**
 * What keeps a query from a standby even when it is only planned. The planner calls stable functions to
 * estimate, so `EXPLAIN` of a query that asks `txid_current()` is refused there; volatile ones it leaves alone.
 */
const MATTERS_UNRUN: ReadonlySet<ReasonKind> = new Set([
  'transaction-id',
  'server-state',
  'asks-session',
  'unlogged',
  'temporary',
  'foreign',
  'unknown-name',
  'session-state',
  'runs-code',
  'changes-schema',
]);

/** Statements that maintain what is there and change nothing that the catalog tells of. */
const MAINTENANCE: Record<string, string> = {
  VacuumStmt: 'runs VACUUM or ANALYZE',
  ReindexStmt: 'rebuilds indexes',
  ClusterStmt: 'rewrites a table in the order of an index',
  CheckPointStmt: 'asks for a checkpoint',
  RefreshMatViewStmt: 'fills a materialized view anew',
};

/** Of the statements that change the schema, those after which names mean what they meant. */
const CATALOG_STAYS: ReadonlySet<string> = new Set([
  'AlterSystemStmt',
  'CommentStmt',
  'CreateStatsStmt',
  'GrantRoleStmt',
  'GrantStmt',
  'IndexStmt',
  'SecLabelStmt',
]);

/**
 * @param catalog as it is known now
 * @example
 * classify(parser.parse('select nextval($1)'), catalog).reasons
 * // [{ kind: 'sequence', text: 'calls nextval, which advances a sequence' }]
 */
export function classify(
  parsed: Parsed,
  catalog: Catalog,
  options: RouteOptions = {},
): StatementFacts {
  switch (parsed.kind) {
    case 'statements':
      try {
        return classifyAll(
          parsed.statements.flatMap(({ stmt }) => stmt ?? []),
          catalog,
          options,
        );
      } catch (error) {
        // The tree is deeper than the stack. Unlike the parser's, JavaScript's own stack bears that.
        if (error instanceof RangeError) return factsOfUnparsed('is nested too deeply to be read');
        throw error;
      }
    case 'syntax-error':
      return factsOfUnparsed(`does not parse: ${parsed.message}`);
    case 'too-large':
      return factsOfUnparsed(`is longer than ${parsed.limit} characters, and is not parsed`);
    case 'too-complex':
      return factsOfUnparsed('is nested too deeply to be parsed');
    case 'unavailable':
      return factsOfUnparsed('came while the parser was being made anew');
  }
}

function classifyAll(nodes: Node[], catalog: Catalog, options: RouteOptions): StatementFacts {
  const facts = new FactsBuilder();
  const reader = new QueryReader(catalog, facts, options);
  for (const node of nodes) {
    readStatement(node, { facts, reader, run: inner => classifyAll([inner], catalog, options) });
  }
  return facts.build(nodes.length);
}

export interface StatementContext {
  readonly facts: FactsBuilder;
  readonly reader: QueryReader;
  /** The facts of a statement within this one, by themselves. */
  run(inner: Node): StatementFacts;
}

function readStatement(node: Node, context: StatementContext): void {
  const { facts, reader } = context;
  if (
    'SelectStmt' in node ||
    'InsertStmt' in node ||
    'UpdateStmt' in node ||
    'DeleteStmt' in node ||
    'MergeStmt' in node
  ) {
    reader.read(node);
    return;
  }
  if ('TransactionStmt' in node) {
    readTransaction(node.TransactionStmt, facts);
    return;
  }
  if ('ExplainStmt' in node) {
    readExplain(node.ExplainStmt, context);
    return;
  }
  if ('CopyStmt' in node) {
    readCopy(node.CopyStmt, context);
    return;
  }
  if ('DeclareCursorStmt' in node) {
    readCursor(node.DeclareCursorStmt, context);
    return;
  }
  if ('CallStmt' in node) {
    facts.reason('runs-code', 'calls a procedure, which may do anything');
    if (node.CallStmt.funccall) reader.read({ FuncCall: node.CallStmt.funccall });
    return;
  }
  if ('DoStmt' in node) {
    facts.reason('runs-code', 'runs a DO block, which may do anything');
    return;
  }
  if ('LockStmt' in node) {
    facts.reason('locks-table', 'locks a table');
    facts.pin('transaction', 'locks a table until its transaction ends');
    for (const { RangeVar: table } of rangeVars(node.LockStmt.relations)) {
      reader.table(table, 'read');
    }
    return;
  }
  if ('TruncateStmt' in node) {
    for (const { RangeVar: table } of rangeVars(node.TruncateStmt.relations)) {
      facts.reason('writes-rows', `truncates ${nameOf(table)}`);
      reader.table(table, 'written');
    }
    return;
  }
  if ('CreateTableAsStmt' in node) {
    const { into, query, objtype } = node.CreateTableAsStmt;
    const what = objtype === 'OBJECT_MATVIEW' ? 'CREATE MATERIALIZED VIEW' : 'CREATE TABLE AS';
    if (query) reader.read(query);
    reader.into(into?.rel, what);
    return;
  }
  if (readSession(node, context)) return;
  readDefinition(node, context);
}

/** Without ANALYZE nothing runs, so only what the planner itself trips over counts. */
function readExplain({ query, options }: ExplainStmt, context: StatementContext): void {
  if (!query) return;
  if (isAnalyze(options)) readStatement(query, context);
  else context.facts.include(context.run(query), ({ kind }) => MATTERS_UNRUN.has(kind));
}

/** Of EXPLAIN: whether the statement is run. */
export function isAnalyze(options: Node[] | undefined): boolean {
  return (options ?? []).some(node => {
    if (!('DefElem' in node) || node.DefElem.defname !== 'analyze') return false;
    const { arg } = node.DefElem;
    if (!arg) return true;
    if ('Integer' in arg) return (arg.Integer.ival ?? 0) !== 0;
    if ('String' in arg) return !/^(f(alse)?|off|n(o)?)$/i.test(arg.String.sval ?? '');
    return true;
  });
}

function readCopy(statement: CopyStmt, { facts, reader }: StatementContext): void {
  const { relation, query, is_from, is_program, filename } = statement;
  if (query) reader.read(query);
  if (statement.whereClause) reader.read(statement.whereClause);
  reader.table(relation, is_from ? 'written' : 'read');
  if (is_from && relation) facts.reason('writes-rows', `copies into ${nameOf(relation)}`);
  if (is_program || filename) {
    facts.reason('server-file', "works on a file, or a program, of the server's machine");
  }
}

function readCursor(statement: DeclareCursorStmt, { facts, reader }: StatementContext): void {
  const { portalname = '', options = 0, query } = statement;
  if (query) reader.read(query);
  if ((options & CURSOR_HOLD) === 0) {
    facts.pin('transaction', `opens the cursor ${portalname}`);
    return;
  }
  facts.reason('session-state', `opens the cursor ${portalname}, which outlasts its transaction`);
  facts.pin('session', `opens the cursor ${portalname}, which outlasts its transaction`);
}

/** What is left: CREATE, ALTER, DROP, GRANT and so on. */
function readDefinition(node: Node, { facts, reader }: StatementContext): void {
  const [type = '', fields] = Object.entries(node)[0] ?? [];
  const maintains = MAINTENANCE[type];
  if (maintains) {
    facts.reason('maintains', maintains);
    for (const table of namedTables(fields)) {
      reader.table(table, type === 'RefreshMatViewStmt' ? 'written' : 'read');
    }
    return;
  }
  facts.reason('changes-schema', `changes the schema or the server (${wordsOf(type)})`);
  const tables = namedTables(fields);
  for (const table of tables) reader.table(table, 'defined');
  if ('DropStmt' in node && DROPS_TABLES.has(node.DropStmt.removeType ?? '')) {
    for (const object of node.DropStmt.objects ?? []) {
      const [name, schemaname] = objectName(object);
      reader.table({ relname: name, ...(schemaname ? { schemaname } : {}) }, 'defined');
    }
  }
  const [first] = tables;
  if (!CATALOG_STAYS.has(type) && !(first && isTemporary(first))) facts.changesCatalog();
}

const DROPS_TABLES = new Set([
  'OBJECT_TABLE',
  'OBJECT_VIEW',
  'OBJECT_MATVIEW',
  'OBJECT_SEQUENCE',
  'OBJECT_FOREIGN_TABLE',
]);

/** `CreateTrigStmt` → CREATE TRIG: for a person, who has the text beside it. */
function wordsOf(type: string): string {
  const words = type.replace(/Stmt$/, '').replace(/(?<=[a-z])(?=[A-Z])/g, ' ');
  return WORDS[type] ?? words.toUpperCase();
}

const WORDS: Record<string, string> = {
  CreateStmt: 'CREATE TABLE',
  CreateSeqStmt: 'CREATE SEQUENCE',
  CreateTrigStmt: 'CREATE TRIGGER',
  CreatedbStmt: 'CREATE DATABASE',
  DefineStmt: 'CREATE',
  DropdbStmt: 'DROP DATABASE',
  IndexStmt: 'CREATE INDEX',
  RenameStmt: 'ALTER … RENAME',
  RuleStmt: 'CREATE RULE',
  ViewStmt: 'CREATE VIEW',
};

/** The tables that a definition names as its own, not those in its queries and expressions. */
function namedTables(fields: object | undefined): RangeVar[] {
  const found: RangeVar[] = [];
  for (const [name, value] of Object.entries(fields ?? {})) {
    if (name === 'relation' || name === 'view' || name === 'sequence' || name === 'base') {
      // CREATE FOREIGN TABLE has its table a level below.
      found.push(...(name === 'base' ? namedTables(value) : [value as RangeVar]));
    } else if (name === 'rels' && Array.isArray(value)) {
      for (const item of value as Node[]) {
        if ('VacuumRelation' in item && item.VacuumRelation.relation) {
          found.push(item.VacuumRelation.relation);
        }
      }
    }
  }
  return found;
}

function rangeVars(nodes: Node[] | undefined): { RangeVar: RangeVar }[] {
  return (nodes ?? []).filter(node => 'RangeVar' in node);
}

function objectName(node: Node): [name: string, schema: string | undefined] {
  const items = 'List' in node ? (node.List.items ?? []) : [];
  const parts = items.map(item => ('String' in item ? (item.String.sval ?? '') : ''));
  return [parts.at(-1) ?? '', parts.at(-2)];
}
