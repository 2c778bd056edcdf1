/**
 * COPY … FROM STDIN and TO STDOUT of tables whose rows are on several shards.
 *
 * Holds true here: what is planned splits and joins the very bytes that are copied, so their format is known in all that
 * matters for it: where a row ends, and what its key is. Options that would change that in a way not known here are
 * refused.
 */
import type { CopyStmt, Node } from 'libpg-query';
import { functionsOf } from './expressions.ts';
import { callsSequence } from './insert-values.ts';
import { type KeyFamily, type PlacedTable, qualified } from './placement.ts';
import { ShardRefused } from './refused.ts';
import { namesOf, stringOf } from './tree.ts';

/** How rows are written. Single characters are bytes: all of them are ASCII. */
export type CopyFormat =
  | { readonly kind: 'binary' }
  | {
      readonly kind: 'text' | 'csv';
      readonly delimiter: number;
      readonly null: string;
      readonly quote: number;
      readonly escapeByte: number;
      readonly hasHeader: boolean;
      /** Of the key's column, in CSV: whether a quoted null string is NULL, and an unquoted one is not. */
      readonly forceNull: boolean;
      readonly forceNotNull: boolean;
    };

export interface CopyIntoAction {
  readonly kind: 'copy in';
  readonly format: CopyFormat;
  /** How many columns each row has. */
  readonly columns: number;
  /** Undefined: each shard gets all rows. */
  readonly key: CopyKey | undefined;
}

export interface CopyKey {
  /** The place of its column in a row. */
  readonly at: number;
  readonly family: KeyFamily;
  /** Of `character varying(n)`: what is longer by spaces alone is cut to it. */
  readonly length: number | undefined;
}

export interface CopyOutAction {
  readonly kind: 'copy out';
  readonly format: CopyFormat;
  readonly columns: number;
}

const REMEDY = 'Nothing was sent. Leave the option out, or use INSERT of many rows at a time';

/** @throws ShardRefused */
export function planCopyInto(statement: CopyStmt, table: PlacedTable): CopyIntoAction {
  const { options = [], whereClause, filename, is_program: isProgram } = statement;
  const name = qualified(table);
  if (filename || isProgram) {
    throw new ShardRefused(
      `COPY into ${name} from a file or a program of a server's machine, while its rows are on several`,
      'Send the file with COPY … FROM STDIN',
    );
  }
  if (table.kind !== 'sharded' && table.kind !== 'reference') {
    throw new ShardRefused(
      `COPY into ${name}, which is a view`,
      'Copy into the table that it reads',
    );
  }
  const listed = namesOf(statement.attlist) ?? [];
  const free = table.columns.filter(({ isGenerated }) => !isGenerated).map(one => one.name);
  const columns = listed.length > 0 ? listed : free;
  for (const option of options) refuseOption(option, name);
  if (functionsOf(whereClause).includes('nextval')) {
    throw new ShardRefused(
      `COPY into ${name} calls nextval(), and each shard has a sequence of its own`,
      'Leave it out',
    );
  }
  const leftOut = table.columns.filter(one => !columns.includes(one.name) && !one.isGenerated);
  const isSharded = table.kind === 'sharded';
  const made = leftOut.find(
    one => one.default !== undefined && (!isSharded || callsSequence(one.default)),
  );
  if (made) {
    throw new ShardRefused(
      isSharded
        ? `COPY into ${name} leaves ${made.name} to a sequence, of which each shard has its own`
        : `COPY into ${name}, which is whole on each shard, leaves ${made.name} to its default, which may differ from copy to copy`,
      'Give a value for it in each row, or make its default banyan.next_id()',
    );
  }
  return {
    kind: 'copy in',
    format: readFormat(options, table.key),
    columns: columns.length,
    key: isSharded ? keyOf(table, columns) : undefined,
  };
}

function keyOf(table: PlacedTable, columns: readonly string[]): CopyKey {
  const at = columns.indexOf(table.key!);
  const { family, type = '' } = table.columns.find(({ name }) => name === table.key) ?? {};
  if (at < 0 || !family) {
    throw new ShardRefused(
      `COPY into ${qualified(table)} leaves out its shard key ${table.key}`,
      'Give a value for it in each row',
    );
  }
  const [, length] = /^character varying\((\d+)\)$/.exec(type) ?? [];
  return { at, family, length: length === undefined ? undefined : Number(length) };
}

/** @param columns how many each row has */
export function planCopyOut({ options = [], filename }: CopyStmt, columns: number): CopyOutAction {
  if (filename) {
    throw new ShardRefused(
      "COPY to a file or a program of a server's machine, of rows that are on several",
      'Use COPY … TO STDOUT, and write the file where it is wanted',
    );
  }
  return { kind: 'copy out', format: readFormat(options, undefined), columns };
}

function refuseOption(option: Node, table: string): void {
  const { defname = '', arg } = 'DefElem' in option ? option.DefElem : {};
  const what = `COPY into ${table} with the option ${defname.toUpperCase()}`;
  if (defname === 'encoding' && !/^utf-?8$/i.test(stringOf(arg) ?? '')) {
    throw new ShardRefused(`${what} ${stringOf(arg)}: keys are read as UTF-8`, REMEDY);
  }
  if (defname === 'reject_limit') {
    throw new ShardRefused(`${what}, which each shard would count for itself`, REMEDY);
  }
  if (defname === 'default') {
    throw new ShardRefused(
      `${what}, which may stand for a shard key or a sequence's number`,
      REMEDY,
    );
  }
}

function readFormat(options: readonly Node[], key: string | undefined): CopyFormat {
  const given = new Map<string, Node | undefined>();
  for (const option of options) {
    if ('DefElem' in option) given.set(option.DefElem.defname ?? '', option.DefElem.arg);
  }
  const word = (name: string) => stringOf(given.get(name));
  const kind = (word('format') ?? 'text').toLowerCase();
  if (kind === 'binary') return { kind };
  const isCsv = kind === 'csv';
  const quote = byteOf(word('quote') ?? '"');
  return {
    kind: isCsv ? 'csv' : 'text',
    delimiter: byteOf(word('delimiter') ?? (isCsv ? ',' : '\t')),
    null: word('null') ?? (isCsv ? '' : '\\N'),
    quote,
    escapeByte: given.has('escape') ? byteOf(word('escape') ?? '') : quote,
    hasHeader: given.has('header') && isTrue(given.get('header')),
    forceNull: names(given, 'force_null', key),
    forceNotNull: names(given, 'force_not_null', key),
  };
}

/** What is no single byte PostgreSQL refuses, whatever is made of it here. */
const byteOf = (text: string) => Buffer.from(text)[0] ?? 0;

function isTrue(arg: Node | undefined): boolean {
  if (!arg) return true;
  if ('Boolean' in arg) return arg.Boolean.boolval === true;
  if ('Integer' in arg) return (arg.Integer.ival ?? 0) !== 0;
  return !/^(f|fa|fal|fals|false|off|n|no|0)$/i.test(stringOf(arg) ?? '');
}

function names(given: Map<string, Node | undefined>, option: string, key: string | undefined) {
  const arg = given.get(option);
  if (!arg) return false;
  if ('A_Star' in arg) return true;
  const items = 'List' in arg ? arg.List.items : undefined;
  return key !== undefined && (namesOf(items) ?? []).includes(key);
}
