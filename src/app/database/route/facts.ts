/**
 * What the router knows of a statement: the words of this room.
 *
 * Glossary
 * - *access*: `read` when a hot standby that has caught up gives the same answer as the primary; all
 *   else is `write` and belongs on the primary, also when it changes nothing (`FOR UPDATE`,
 *   `pg_stat_activity`).
 * - *reason*: why a statement is not a read, for a program (`kind`) and for a person (`text`).
 * - *pin*: what comes after has to run on the same connection, until the transaction or the session ends.
 * - *opaque*: it runs code that no parser sees (a function's body, a DO block, a prepared statement), which
 *   may have written to any table and may have changed its session.
 */

export type Access = 'read' | 'write';
export type Pin = 'nothing' | 'transaction' | 'session';

/** Each with whether it leaves anything behind: what leaves nothing may be run again. */
const LEAVES_SOMETHING = {
  /** INSERT, UPDATE, DELETE, MERGE, TRUNCATE, COPY FROM, a large object. */
  'writes-rows': true,
  /** The schema, roles, privileges, the server's configuration. */
  'changes-schema': true,
  /** VACUUM, ANALYZE, REINDEX and their like. */
  maintains: true,
  /** FOR UPDATE and its like: gone with the transaction. */
  'locks-rows': false,
  /** LOCK TABLE. */
  'locks-table': false,
  'advisory-lock': true,
  sequence: true,
  notification: true,
  /** SET, prepared statements, cursors that are held: what one session has and another has not. */
  'session-state': true,
  /** SHOW, `current_setting`, `pg_backend_pid`: asks for it. */
  'asks-session': false,
  /** Begins a transaction that may write, or ends one in two phases. */
  transaction: true,
  /** Asks for, or gives itself, a transaction id or a snapshot. */
  'transaction-id': false,
  /** Tells of the server that it runs on, so that each answers differently. */
  'server-state': false,
  /** A volatile function, and what the catalog knows to call one. */
  'volatile-function': true,
  /** DO, CALL, EXECUTE. */
  'runs-code': true,
  'server-file': true,
  /** An unlogged table: not there on a standby. */
  unlogged: false,
  temporary: false,
  /** A foreign table: the other server is asked, and may not know a standby. */
  foreign: true,
  /** A name that the catalog does not have, or does not have yet. */
  'unknown-name': true,
  /** A standby refused it, whatever the catalog says: a function is marked stable and is not. */
  refused: true,
  /** Not parsed, so nothing is known. */
  'not-parsed': true,
} as const;

export type ReasonKind = keyof typeof LEAVES_SOMETHING;

export interface Reason {
  readonly kind: ReasonKind;
  /** Completes "it runs on the primary, since it …". */
  readonly text: string;
}

export type Isolation = 'serializable' | 'repeatable read' | 'read committed' | 'read uncommitted';

export interface TransactionModes {
  readonly isolation?: Isolation;
  readonly readOnly?: boolean;
  readonly deferrable?: boolean;
}

/** What a statement does to the transaction of its session. */
export type TransactionEffect =
  | { readonly kind: 'begin'; readonly modes: TransactionModes }
  /** SET TRANSACTION. */
  | { readonly kind: 'modes'; readonly modes: TransactionModes }
  | { readonly kind: 'commit' | 'rollback'; readonly chain: boolean }
  | { readonly kind: 'savepoint' | 'release' | 'rollback to'; readonly name: string }
  | {
      readonly kind: 'prepare' | 'commit prepared' | 'rollback prepared';
      readonly gid: string;
    };

export type TableRole = 'read' | 'written' | 'defined';

export interface TableUse {
  /** As written, else as the search path resolves it; undefined when the catalog does not know it. */
  readonly schema: string | undefined;
  readonly name: string;
  /** `defined`: created, altered, dropped. */
  readonly role: TableRole;
}

/** What is known of one text, which may hold several statements. Frozen: it is shared by all who run it. */
export interface StatementFacts {
  readonly access: Access;
  /** Why it is a write; empty for a read. */
  readonly reasons: readonly Reason[];
  readonly pins: Pin;
  /** Why it pins; undefined when it does not. Completes "later statements stay on its connection, since it …". */
  readonly pinnedBy: string | undefined;
  /** In the order of the statements. */
  readonly transaction: readonly TransactionEffect[];
  /** Each table once for each role, in the order of first mention. A view is one name, not its tables. */
  readonly tables: readonly TableUse[];
  /** Running it twice leaves what running it once leaves, so an answer that was lost may be asked for again. */
  readonly repeatable: boolean;
  readonly opaque: boolean;
  /** What the catalog says of functions, relations or types may be different after it (and its commit). */
  readonly changesCatalog: boolean;
  /** Names that the catalog did not have: a reason to load it anew. */
  readonly unknownNames: readonly string[];
  /** How many statements the text holds. */
  readonly statements: number;
}

/** Gathers the facts of one text. */
export class FactsBuilder {
  readonly #reasons = new Map<string, Reason>();
  readonly #tables = new Map<string, TableUse>();
  readonly #unknown = new Set<string>();
  readonly #transaction: TransactionEffect[] = [];
  #pins: Pin = 'nothing';
  #pinnedBy: string | undefined;
  #opaque = false;
  #changesCatalog = false;

  reason(kind: ReasonKind, text: string): void {
    this.#reasons.set(text, { kind, text });
    if (kind === 'volatile-function' || kind === 'runs-code') this.#opaque = true;
  }

  /** The longest pin counts. */
  pin(pin: Pin, why: string): void {
    if (this.#pins === 'session' || pin === 'nothing' || pin === this.#pins) return;
    this.#pins = pin;
    this.#pinnedBy = why;
  }

  table(schema: string | undefined, name: string, role: TableRole): void {
    this.#tables.set(JSON.stringify([schema, name, role]), { schema, name, role });
  }

  unknown(what: string, name: string): void {
    this.#unknown.add(name);
    this.reason('unknown-name', `names the ${what} ${name}, which is not known here`);
  }

  transaction(effect: TransactionEffect): void {
    this.#transaction.push(effect);
  }

  changesCatalog(): void {
    this.#changesCatalog = true;
  }

  /** Takes over what another gathered, without the reasons that `keep` refuses. */
  include(other: StatementFacts, keep: (reason: Reason) => boolean): void {
    for (const reason of other.reasons) if (keep(reason)) this.reason(reason.kind, reason.text);
    for (const { schema, name, role } of other.tables) this.table(schema, name, role);
    for (const name of other.unknownNames) this.#unknown.add(name);
  }

  build(statements: number): StatementFacts {
    const reasons = [...this.#reasons.values()];
    const [effect] = this.#transaction;
    const onlyBegins = statements === 1 && effect?.kind === 'begin';
    return Object.freeze({
      access: reasons.length === 0 ? 'read' : 'write',
      reasons,
      pins: this.#pins,
      pinnedBy: this.#pinnedBy,
      transaction: this.#transaction,
      tables: [...this.#tables.values()],
      // A transaction that has begun on a connection that broke is gone, so it may be begun anew.
      repeatable:
        onlyBegins ||
        (this.#pins === 'nothing' &&
          this.#transaction.length === 0 &&
          reasons.every(({ kind }) => !LEAVES_SOMETHING[kind])),
      opaque: this.#opaque,
      changesCatalog: this.#changesCatalog,
      unknownNames: [...this.#unknown],
      statements,
    });
  }
}

/**
 * The facts of a text that was not parsed: PostgreSQL gets it, on the primary, and says itself what is
 * wrong with it.
 */
export function factsOfUnparsed(why: string): StatementFacts {
  return Object.freeze<StatementFacts>({
    access: 'write',
    reasons: [{ kind: 'not-parsed', text: why }],
    pins: 'session',
    pinnedBy: 'may have changed its session: nothing is known of it',
    transaction: [],
    tables: [],
    repeatable: false,
    opaque: true,
    changesCatalog: false,
    unknownNames: [],
    statements: 0,
  });
}

/** The same facts, of a statement that turned out not to be a read. */
export function factsOfRefused(facts: StatementFacts, sqlstate: string): StatementFacts {
  const reason: Reason = { kind: 'refused', text: `was refused by a standby (${sqlstate})` };
  return Object.freeze<StatementFacts>({
    ...facts,
    access: 'write',
    reasons: [...facts.reasons, reason],
    repeatable: false,
    opaque: true,
  });
}
