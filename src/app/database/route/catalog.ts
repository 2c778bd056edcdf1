/**
 * What is known of a database at one moment: which functions, operators and types are to be treated with
 * care, which relations there are and which of them a standby cannot read.
 *
 * Holds true here:
 * - Immutable. A newer state is a new object with a higher `version`, so facts that were drawn from one can
 *   be told from facts drawn from another.
 * - A name is looked up as PostgreSQL does, along the search path. Of functions and operators with the same
 *   name every one that takes as many arguments is a candidate, wherever in the path it is, since argument types, which
 *   are not known here, decide between them; the most dangerous one counts.
 * - What it does not know it says: the answer is never "safe" by default.
 */
import type { CatalogData, KnownNames, Unsafe } from './catalog-query.ts';
import type { ReasonKind } from './facts.ts';

/** What one name may stand for. */
export type Verdict =
  | { readonly kind: 'safe' }
  /** One of PostgreSQL's own, marked volatile or listed in `builtins.ts`. */
  | { readonly kind: 'builtin'; readonly name: string; readonly why: string }
  | { readonly kind: 'unsafe'; readonly name: string; readonly why: string }
  | { readonly kind: 'unknown' };

const SAFE: Verdict = { kind: 'safe' };
const UNKNOWN: Verdict = { kind: 'unknown' };

export interface Relation {
  readonly schema: string;
  readonly name: string;
  /** `pg_class.relkind`. */
  readonly kind: string;
  /** Why a standby cannot read it as the primary does. */
  readonly trouble: { readonly kind: ReasonKind; readonly text: string } | undefined;
}

/** Functions, operators or types: known names by schema, with those to be careful with. */
class NameTable {
  readonly #known = new Map<string, Set<string>>();
  readonly #unsafe = new Map<string, Unsafe[]>();

  constructor(known: KnownNames[], unsafe: Unsafe[]) {
    for (const [schema, names] of known.flatMap(part => Object.entries(part))) {
      const all = this.#known.get(schema) ?? new Set();
      for (const name of names) all.add(name);
      this.#known.set(schema, all);
    }
    for (const entry of unsafe) {
      const list = this.#unsafe.get(entry[1]) ?? [];
      list.push(entry);
      this.#unsafe.set(entry[1], list);
    }
  }

  /** @param count of arguments; undefined: whatever it takes */
  judge(schemas: readonly string[], name: string, count: number | undefined): Verdict {
    let found: Unsafe | undefined;
    for (const entry of this.#unsafe.get(name) ?? []) {
      const [schema, , minimum, maximum] = entry;
      const fits =
        count === undefined || (count >= minimum && (maximum === -1 || count <= maximum));
      // One of the user's own is worse than a built-in one, of which it is known what it does.
      if (fits && schemas.includes(schema) && (!found || found[0] === 'pg_catalog')) found = entry;
    }
    if (found) {
      const [schema, , , , why] = found;
      return schema === 'pg_catalog'
        ? { kind: 'builtin', name, why }
        : { kind: 'unsafe', name: `${schema}.${name}`, why };
    }
    return schemas.some(schema => this.#known.get(schema)?.has(name)) ? SAFE : UNKNOWN;
  }
}

const EMPTY: CatalogData = {
  searchPath: [],
  functions: {},
  unsafeFunctions: [],
  operators: {},
  unsafeOperators: [],
  types: {},
  unsafeTypes: [],
  relations: [],
  unsafeRowFunctions: [],
  unsafeImplicitCast: null,
};

export class Catalog {
  /** Knows nothing, so nothing is a read but what names nothing. */
  static readonly EMPTY = new Catalog(0, [EMPTY]);

  readonly version: number;
  /** In PostgreSQL's order, with `pg_catalog`; without the schema of temporary tables. */
  readonly searchPath: readonly string[];
  /** Set when a cast that no text shows calls a function to be careful with: then every expression may. */
  readonly unsafeImplicitCast: string | undefined;
  readonly #functions: NameTable;
  readonly #operators: NameTable;
  readonly #types: NameTable;
  readonly #rowFunctions: Set<string>;
  readonly #relations = new Map<string, Map<string, Relation>>();

  /** @param parts what came with the server, and what was made in it since; the last one's path counts */
  constructor(version: number, parts: CatalogData[]) {
    this.version = version;
    this.searchPath = parts.at(-1)?.searchPath ?? [];
    const all = <T>(of: (part: CatalogData) => T[]): T[] => parts.flatMap(of);
    this.unsafeImplicitCast = all<string>(part =>
      part.unsafeImplicitCast === null ? [] : [part.unsafeImplicitCast],
    )[0];
    this.#functions = new NameTable(
      parts.map(part => part.functions),
      all(part => part.unsafeFunctions),
    );
    this.#operators = new NameTable(
      parts.map(part => part.operators),
      all(part => part.unsafeOperators),
    );
    this.#types = new NameTable(
      parts.map(part => part.types),
      all(part => part.unsafeTypes),
    );
    this.#rowFunctions = new Set(all(part => part.unsafeRowFunctions));
    for (const [, schema, name, kind, trouble] of all(part => part.relations)) {
      const names = this.#relations.get(schema) ?? new Map<string, Relation>();
      names.set(name, {
        schema,
        name,
        kind,
        trouble: trouble ? { kind: trouble[0] as ReasonKind, text: trouble[1] } : undefined,
      });
      this.#relations.set(schema, names);
    }
  }

  function(schema: string | undefined, name: string, count: number | undefined): Verdict {
    return this.#functions.judge(this.#schemas(schema), name, count);
  }

  /** @param count of operands */
  operator(schema: string | undefined, name: string, count: number): Verdict {
    return this.#operators.judge(this.#schemas(schema), name, count);
  }

  type(schema: string | undefined, name: string): Verdict {
    return this.#types.judge(this.#schemas(schema), name, 0);
  }

  /** Whether `row.name` may call a function to be careful with; a column of that name hides it. */
  hasUnsafeRowFunction(name: string): boolean {
    return this.#rowFunctions.has(name);
  }

  relation(schema: string | undefined, name: string): Relation | undefined {
    for (const candidate of this.#schemas(schema)) {
      const found = this.#relations.get(candidate)?.get(name);
      if (found) return found;
    }
    return undefined;
  }

  #schemas(schema: string | undefined): readonly string[] {
    return schema === undefined ? this.searchPath : [schema];
  }
}
