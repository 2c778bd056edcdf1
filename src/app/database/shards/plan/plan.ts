/**
 * The plan of a statement: where it goes, what is sent, and how the answers become one. A template: it holds
 * for whatever values its parameters get.
 */
import type { TransactionEffect } from '../../route/facts.ts';
import type { CopyIntoAction, CopyOutAction } from './copy.ts';
import type { Written } from './tree.ts';
import type { Pin, ValueSource } from './values.ts';

/** All of these narrow down one part of a statement; the shards of its parts are put together. */
export type Pins = readonly Pin[];

export type Target =
  /** No table, home tables, the session: the first shard. */
  | { readonly kind: 'first' }
  /** Every shard would give the same. */
  | { readonly kind: 'any' }
  | { readonly kind: 'shard'; readonly shard: number }
  /** Those that own the keys; all of them for a part without pins. */
  | { readonly kind: 'keys'; readonly parts: readonly Pins[] }
  | { readonly kind: 'all' };

/** What a row is ordered by. */
export interface SortKey {
  /** A column by its place, by its place from the end (hidden ones), or by its name. */
  readonly column:
    | { readonly at: number }
    | { readonly hidden: number }
    | { readonly name: string };
  readonly isDescending: boolean;
  readonly nullsFirst: boolean;
}

/** Numbers of parameters that the execution fills in, beyond the 65,535 that the protocol has. */
export const LIMIT_PARAMETER = 70_000;
/** The first of those that stand for computed values. */
export const COMPUTED_PARAMETER = 80_000;

export interface Limits {
  readonly count: ValueSource | undefined;
  readonly offset: ValueSource | undefined;
}

/** The rows of the shards, put together. */
export interface RowsMerge {
  readonly kind: 'rows';
  readonly keys: readonly SortKey[];
  readonly distinct:
    | { readonly kind: 'none' }
    | { readonly kind: 'all' }
    | { readonly kind: 'on'; readonly columns: readonly SortKey['column'][] };
  /** Columns at the end that are not for the caller. */
  readonly hidden: number;
  readonly limits: Limits;
}

/** How a value is made of the columns of the partial results; `columns` are their places. */
export interface Slot {
  readonly kind: 'value' | 'count' | 'sum' | 'average' | 'same';
  readonly columns: readonly number[];
  /** For `same`: the aggregate that combines its own results. */
  readonly name?: string;
}

/** The partial results are rows of a query that one of the shards answers. */
export interface QueryMerge {
  readonly kind: 'query';
  /** With the word `${prefix}p` for the rows, and `${prefix}s0`, `${prefix}s1`, … for the slots. */
  readonly final: Written;
  readonly prefix: string;
  readonly slots: readonly Slot[];
  /** The result is one row of these slots by these names, and nothing else is asked. */
  readonly plain: readonly { readonly name: string; readonly slot: number }[] | undefined;
  /** Used when the types show that partial results would not be exact. */
  readonly exact: { readonly partial: Written; readonly merge: QueryMerge } | undefined;
}

export type Merge = RowsMerge | QueryMerge;

export type Action =
  /** The statement as it is, to one shard, or to each of several whose answers are put together by `merge`. */
  | { readonly kind: 'whole'; readonly target: Target }
  /** A query: as it is when the target is one shard, else in parts. */
  | {
      readonly kind: 'scatter';
      readonly target: Target;
      readonly partial: Written;
      readonly merge: Merge;
    }
  | WriteAction
  | InsertAction
  | CopiedInsertAction
  | MoveAction
  | StagedAction
  | CopyAction
  /** EXPLAIN of what goes to several shards: the plan of that, in words. Nothing is sent. */
  | { readonly kind: 'explained'; readonly of: Action };

/** To each shard of the target; counts are added up, rows put together. */
export interface WriteAction {
  readonly kind: 'write';
  readonly target: Target;
  /** The copies of a reference table, or the schema: the first shard's answer counts for all. */
  readonly isCopied: boolean;
  /** It cannot run in a transaction: VACUUM, CREATE INDEX CONCURRENTLY. */
  readonly isAlone: boolean;
  /** What has to be the same on all, and the statement that has parameters for it. */
  readonly computed?: { readonly values: ComputedValues; readonly statement: Written };
}

/** A write that is neither copied nor alone. */
export const PLAIN = { isCopied: false, isAlone: false } as const;

/** INSERT … VALUES into a sharded table, split by key. */
export interface InsertAction {
  readonly kind: 'insert';
  readonly family: Pin['family'];
  /** Of each row. */
  readonly keys: readonly ValueSource[];
  /** Values that the first shard computes before, by the parameters that then stand for them. */
  readonly computed: ComputedValues | undefined;
  /** The statement with some of its rows; undefined: all of them, as it came. */
  write(rows: readonly number[] | undefined): Written | undefined;
}

/** INSERT … SELECT of rows that may belong to other shards than those that they come from. */
export interface MoveAction {
  readonly kind: 'move';
  readonly family: Pin['family'];
  /** The place of the key among the columns of the query. */
  readonly keyAt: number;
  readonly query: Written;
  /** Inserts rows; `${prefix}0` is the table that stands for them. */
  readonly insert: Written;
  readonly prefix: string;
}

/** One row of values that are computed once, on the first shard. */
export interface ComputedValues {
  readonly query: Written;
  /** The numbers of the parameters that stand for its columns. */
  readonly parameters: readonly number[];
}

/** INSERT into a reference table: done on the first shard, and its rows are copied to the others. */
export interface CopiedInsertAction {
  readonly kind: 'copied insert';
  /** Run on the first shard; returns all columns of the table, then those that the caller asked for. */
  readonly first: Written;
  readonly columns: readonly { readonly name: string; readonly type: string }[];
  /** Inserts rows given as arrays of text, one for each column. */
  readonly copy: string;
  readonly returnsRows: boolean;
}

/** COPY of a table on several shards, which needs a stream. */
export type CopyAction = CopyIntoAction | (CopyOutAction & { readonly target: Target });

/** Subqueries first; then the statement with their rows in their places, which is planned anew. */
export interface StagedAction {
  readonly kind: 'staged';
  readonly stages: readonly Written[];
  /** `${prefix}0`, `${prefix}1`, … are the tables for whose rows they stand. */
  readonly rest: Written;
  readonly prefix: string;
}

export interface StatementPlan {
  readonly text: string;
  readonly action: Action;
  readonly writes: boolean;
  /** The highest number of its parameters; -1 when one is left out. */
  readonly parameters: number;
  /** What it does to the transaction. */
  readonly transaction: readonly TransactionEffect[];
  /** Names that the catalog does not have: a reason to load it anew. */
  readonly unknownTables: readonly string[];
}
