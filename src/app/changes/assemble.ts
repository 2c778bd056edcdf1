/**
 * Makes transactions of the log's messages. Pure.
 *
 * Holds true here: memory is bounded, whatever a transaction holds. One with more changes than `maxChanges`, or with
 * more than `maxBytes` of them, is told as the tables that it touched, each as a whole.
 */
import type { Change, Row, Transaction } from './change.ts';
import { parseMessage, type Relation, type Tuple } from './pgoutput.ts';

export interface TransactionLimits {
  readonly maxChanges: number;
  /** Of the log's messages: in memory a row takes some times as much. */
  readonly maxBytes: number;
}

/** A transaction whose number lacks its epoch. */
export interface Assembled extends Omit<Transaction, 'xid'> {
  /** Of 32 bits. */
  readonly shortXid: number;
  /** Of its messages. */
  readonly bytes: number;
}

interface Open {
  readonly xid: number;
  readonly commitLsn: bigint;
  readonly committedAt: Date;
  changes: Change[];
  bytes: number;
  /** Set when it has become too large: what is told of it, by table. */
  whole: Map<string, Change> | undefined;
}

export class Assembler {
  readonly #limits: TransactionLimits;
  readonly #relations = new Map<number, Relation>();
  #open: Open | undefined;

  constructor(limits: TransactionLimits) {
    this.#limits = limits;
  }

  /** A transaction has begun and its end has not come. */
  get isInside(): boolean {
    return this.#open !== undefined;
  }

  /**
   * @returns the transaction that ends with this message
   * @throws RangeError for what cannot be read
   */
  take(bytes: Buffer): Assembled | undefined {
    const message = parseMessage(bytes);
    switch (message.kind) {
      case 'begin': {
        const { xid, commitLsn, committedAt } = message;
        this.#open = { xid, commitLsn, committedAt, changes: [], bytes: 0, whole: undefined };
        return undefined;
      }
      case 'commit':
        return this.#end(message.endLsn);
      case 'relation':
        this.#relations.set(message.relation.oid, message.relation);
        return undefined;
      case 'insert': {
        const relation = this.#relation(message.oid);
        this.#add(bytes, relation, 'insert', undefined, rowOf(relation, message.after));
        return undefined;
      }
      case 'update': {
        const relation = this.#relation(message.oid);
        const { before, after } = message;
        const old = before ? identityOf(relation, before) : identityOf(relation, after);
        const row = rowOf(relation, after);
        const isWhole = before !== undefined && relation.identity === 'f';
        this.#add(bytes, relation, 'update', old, isWhole ? { ...old, ...row } : row);
        return undefined;
      }
      case 'delete': {
        const relation = this.#relation(message.oid);
        this.#add(bytes, relation, 'delete', identityOf(relation, message.before), undefined);
        return undefined;
      }
      case 'truncate':
        for (const oid of message.oids) {
          this.#add(bytes, this.#relation(oid), 'truncate', undefined, undefined);
        }
        return undefined;
      case 'other':
        return undefined;
    }
  }

  #relation(oid: number): Relation {
    const relation = this.#relations.get(oid);
    if (!relation) throw new RangeError(`the log has not said which table ${oid} is`);
    return relation;
  }

  #add(
    { length }: Buffer,
    relation: Relation,
    kind: Change['kind'],
    before: Row | undefined,
    after: Row | undefined,
  ): void {
    const open = this.#open;
    if (!open) throw new RangeError('a change outside of a transaction in the log');
    open.bytes += length;
    if (!open.whole) {
      open.changes.push({
        schema: relation.schema,
        table: relation.table,
        kind,
        key: keyOf(relation),
        ...(before && { before }),
        ...(after && { after }),
      });
      const { maxChanges, maxBytes } = this.#limits;
      if (open.changes.length <= maxChanges && open.bytes <= maxBytes) return;
      open.whole = new Map(open.changes.map(change => [nameOf(change), wholeOf(change)]));
      open.changes = [];
      return;
    }
    const name = nameOf(relation);
    if (!open.whole.has(name)) open.whole.set(name, wholeOf({ ...relation, key: keyOf(relation) }));
  }

  #end(endLsn: bigint): Assembled {
    const open = this.#open;
    if (!open) throw new RangeError('the end of a transaction in the log that has not begun');
    this.#open = undefined;
    const { xid, commitLsn, committedAt, changes, whole, bytes } = open;
    return {
      kind: 'transaction',
      shortXid: xid,
      commitLsn,
      endLsn,
      committedAt,
      changes: whole ? [...whole.values()] : changes,
      bytes: whole ? 0 : bytes,
    };
  }
}

function nameOf({ schema, table }: { schema: string; table: string }): string {
  return JSON.stringify([schema, table]);
}

function keyOf({ columns }: Relation): string[] {
  return columns.filter(({ isKey }) => isKey).map(({ name }) => name);
}

function wholeOf({ schema, table, key }: Pick<Change, 'schema' | 'table' | 'key'>): Change {
  return { schema, table, kind: 'whole', key };
}

function rowOf({ columns }: Relation, tuple: Tuple): Row {
  const row: Record<string, string | null> = {};
  for (const [i, { name }] of columns.entries()) {
    const value = tuple[i];
    if (value !== undefined) row[name] = value;
  }
  return row;
}

/** A tuple of the identity has NULL for the columns that are not part of it. */
function identityOf({ columns, identity }: Relation, tuple: Tuple): Row {
  if (identity === 'f') return rowOf({ columns } as Relation, tuple);
  const row: Record<string, string | null> = {};
  for (const [i, { name, isKey }] of columns.entries()) {
    const value = tuple[i];
    if (isKey && value !== undefined) row[name] = value;
  }
  return row;
}
