/**
 * One SELECT of a statement: how its rows are spread over the shards, and the proof of it.
 *
 * Holds true here, for a level that is *sharded*: run on each shard, over the rows that are there, it gives
 * parts that make up the whole, without overlap. A proof is needed for each join (rows that match are on the
 * same shard), for each subquery in an expression (it finds on the shard of the outer row all that it would find
 * anywhere), and for each operation that looks at several rows. What has no proof is answered first and by
 * itself (a *stage*), or refused.
 */
import type { Node, RangeVar, SelectStmt } from 'libpg-query';
import { aggregatesAcross, distinctByKey, windowAcross } from './across.ts';
import type { Analysis } from './analysis.ts';
import { copyAdvice } from './copy-advice.ts';
import { isCorrelated } from './correlation.ts';
import { type Column, columnOf, Equalities, isEquals } from './equalities.ts';
import { expressionsOf, subLinksOf } from './expressions.ts';
import { connected, onOf, regionConditions, regionOf } from './from.ts';
import { mergedOutputs, ownOutputs } from './outputs.ts';
import { qualified } from './placement.ts';
import { type Ctes, readFrom, Scope, type Source, withCtes } from './scope.ts';
import { firstTable, isBarrier, writesInWith } from './select-shape.ts';
import { unite } from './set-operations.ts';
import { REFERENCE, type Spread } from './spread.ts';
import { conjunctsOf, isUntyped } from './tree.ts';
import { recordWrite } from './with-writes.ts';

export class Level {
  readonly select: SelectStmt;
  readonly scope: Scope;
  readonly ctes: Ctes;
  /** Those that it did not define itself. */
  readonly outerCtes: Ctes;
  /** Undefined when not all are known. */
  readonly outputs: readonly Column[] | undefined;
  /** Of UNION and its like. */
  readonly branches: readonly [Level, Level] | undefined;
  /** Of FROM, or of UNION, before its last steps. Known after `settle`. */
  from: Spread = REFERENCE;
  equalities: Equalities = Equalities.NONE;
  readonly source: Source | undefined;
  readonly #analysis: Analysis;
  #known: Equalities | undefined;
  #recursive: string | undefined;
  #mention: RangeVar | undefined;
  #inherited: Equalities = Equalities.NONE;
  #outerKeys: readonly Column[] = [];

  constructor(analysis: Analysis, select: SelectStmt, parent: Scope | undefined, ctes: Ctes) {
    analysis.countLevel();
    this.#analysis = analysis;
    this.select = select;
    this.outerCtes = ctes;
    this.ctes = withCtes(select, ctes, parent);
    this.scope = new Scope(parent);
    if (select.larg && select.rarg) {
      const branches = [select.larg, select.rarg].map(
        branch => new Level(analysis, branch, parent, this.ctes),
      );
      this.branches = branches as unknown as readonly [Level, Level];
      this.outputs = mergedOutputs(this, analysis);
    } else {
      this.source = readFrom(select.fromClause ?? [], this.scope, this.ctes, analysis);
      this.outputs = ownOutputs(this, analysis);
    }
  }

  /**
   * What holds for every row that comes out of it, by its own conditions: whatever it groups or cuts off, a column
   * that passes through has met them.
   */
  get known(): Equalities {
    this.#known ??= this.branches
      ? Equalities.NONE
      : Equalities.NONE.and(conjunctsOf(this.select.whereClause), this.scope.resolve).with(
          regionOf(this.source, this.scope.resolve),
        );
    return this.#known;
  }

  /** It is the query of a WITH RECURSIVE. */
  markRecursive(name: string): void {
    this.#recursive = name;
  }

  /** It is the query of a view, which the statement only mentions. */
  markView(mention: RangeVar): void {
    this.#mention = mention;
  }

  get mention(): RangeVar | undefined {
    return this.#mention;
  }

  /**
   * Looks whether it may run on each shard.
   * @param inherited what holds for the rows outside of it
   * @param outerKeys columns outside of it whose value leads to the shard that it runs on
   */
  settle(inherited: Equalities, outerKeys: readonly Column[]): Spread {
    this.#inherited = inherited;
    this.#outerKeys = outerKeys;
    const spread = this.branches
      ? this.#settleBranches(inherited, outerKeys)
      : this.#settleRows(inherited, outerKeys);
    if (this.#recursive !== undefined && (spread.kind === 'sharded' || spread.kind === 'global')) {
      this.#analysis.refuse(
        `WITH RECURSIVE ${this.#recursive} follows rows of a sharded table from shard to shard`,
        'Name the shard key in each part of it, or make the table a reference table',
      );
      return REFERENCE;
    }
    return spread;
  }

  /** Whether an output takes its type from what it is put together with. */
  get hasUntyped(): boolean {
    if (this.branches) return this.branches.some(branch => branch.hasUntyped);
    const { targetList = [], valuesLists } = this.select;
    return (
      valuesLists !== undefined ||
      targetList.some(node => 'ResTarget' in node && isUntyped(node.ResTarget.val))
    );
  }

  /** Whether it names columns of a level outside of it, or may. */
  get isCorrelated(): boolean {
    return isCorrelated(this);
  }

  /** The level of a subquery in one of its expressions. */
  inner(select: SelectStmt): Level {
    return new Level(this.#analysis, select, this.scope, this.ctes);
  }

  // ---- UNION, INTERSECT, EXCEPT

  #settleBranches(inherited: Equalities, outerKeys: readonly Column[]): Spread {
    const [left, right] = this.branches!;
    const [a, b] = [left.settle(inherited, outerKeys), right.settle(inherited, outerKeys)];
    this.equalities = inherited;
    const spread = unite(this, this.#analysis, a, b);
    this.from = spread;
    if (spread.kind !== 'sharded' && spread.kind !== 'global') return spread;
    const { limitCount, limitOffset } = this.select;
    if (limitCount || limitOffset) return { kind: 'global', why: 'has a LIMIT over all shards' };
    return spread;
  }

  // ---- a plain SELECT

  #settleRows(inherited: Equalities, outerKeys: readonly Column[]): Spread {
    const { select, source } = this;
    this.equalities = inherited.with(this.known);
    this.#settleWrites();
    this.from = source ? this.#settleSource(source, this.equalities, outerKeys) : REFERENCE;
    const keys = this.from.kind === 'sharded' ? this.from.keys : [];
    const around = [...outerKeys, ...keys];
    const expressions = [expressionsOf(select), regionConditions(source)];
    this.from = this.#settleSubLinks(expressions, this.equalities, around, this.from);
    if (this.from.kind !== 'sharded') return this.from;
    if (connected(keys, outerKeys, this.equalities)) return { kind: 'local' };
    const why = this.whyGlobal();
    if (why) return { kind: 'global', why };
    const visible = (this.outputs ?? []).filter(output =>
      keys.some(key => this.equalities.same(key, output)),
    );
    return { kind: 'sharded', keys: visible };
  }

  /** Writes in WITH: right on one shard only, when all of it is there. */
  #settleWrites(): void {
    for (const node of this.select.withClause?.ctes ?? []) {
      if (!('CommonTableExpr' in node)) continue;
      const { ctequery, ctename = '' } = node.CommonTableExpr;
      if (!ctequery || 'SelectStmt' in ctequery) continue;
      this.#analysis.refuse(...writesInWith(ctename));
      recordWrite(ctequery, this.#analysis, this.ctes);
    }
  }

  /** Why its results on each shard are not parts of the whole; undefined when they are. */
  whyGlobal(): string | undefined {
    const { select } = this;
    if (aggregatesAcross(this)) return 'aggregates over all shards';
    if (windowAcross(this)) return 'has a window function over all shards';
    if (select.distinctClause && !distinctByKey(this)) return 'is DISTINCT over all shards';
    if (select.limitCount || select.limitOffset) return 'has a LIMIT over all shards';
    return undefined;
  }

  isAggregate(name: string): boolean {
    return this.#analysis.placement.isAggregate(name);
  }

  isKey(node: Node | undefined): boolean {
    const { from } = this;
    const column = columnOf(node, this.scope.resolve);
    if (!column || from.kind !== 'sharded') return false;
    return from.keys.some(key => this.equalities.same(key, column));
  }

  // ---- FROM

  #settleSource(source: Source, equalities: Equalities, outerKeys: readonly Column[]): Spread {
    switch (source.kind) {
      case 'table':
        return this.#settleTable(source, equalities);
      case 'rows':
        return this.#settleSubLinks([source.node], equalities, outerKeys, REFERENCE);
      case 'written':
        return REFERENCE;
      case 'query':
        return this.#settleQuery(source, equalities, outerKeys);
      case 'join':
        return source.type === 'full'
          ? this.#settleFull(source, equalities, outerKeys)
          : this.#settleJoin(source, equalities, outerKeys);
    }
  }

  #settleTable({ table, key }: Extract<Source, { kind: 'table' }>, equalities: Equalities): Spread {
    if (table.kind === 'reference') return REFERENCE;
    if (table.kind !== 'sharded' || !key) {
      this.#analysis.homeTables.add(table.schema ? qualified(table) : table.name);
      return { kind: 'home' };
    }
    if (!key.family) {
      this.#analysis.refuse(
        `The shard key ${key.name} of ${qualified(table)} is of a type or a collation in which equal values have different hashes`,
        'Shard it by a column of type smallint, integer, bigint, uuid, or text in a deterministic collation',
      );
      return { kind: 'sharded', keys: [key] };
    }
    const { family } = key;
    this.#analysis.occurrences.push({ table, family, values: equalities.valuesOf(key) });
    return { kind: 'sharded', keys: [key] };
  }

  #settleQuery(
    { level, isLateral, name }: Extract<Source, { kind: 'query' }>,
    equalities: Equalities,
    outerKeys: readonly Column[],
  ): Spread {
    // A condition on what comes out may be taken in only where it changes nothing of what is counted there.
    const inside = isBarrier(level.select) ? this.#inherited : equalities;
    const spread = level.settle(
      isLateral ? equalities : inside,
      isLateral ? outerKeys : this.#outerKeys,
    );
    if (spread.kind !== 'global') return spread;
    if (level.isCorrelated) {
      this.#analysis.refuse(
        `The subquery ${name} ${spread.why}, and looks at the row outside of it`,
        'Compare the shard keys in its WHERE clause',
      );
    } else this.#analysis.stage(level);
    return REFERENCE;
  }

  #settleJoin(
    source: Extract<Source, { kind: 'join' }>,
    equalities: Equalities,
    outerKeys: readonly Column[],
  ): Spread {
    const isInner = source.type === 'inner';
    const left = this.#settleSource(source.left, equalities, outerKeys);
    const leftKeys = left.kind === 'sharded' ? left.keys : [];
    // What ON demands holds for the rows of the right side that are joined, and for none of the left.
    const within = isInner
      ? equalities
      : equalities
          .with(onOf(source, this.scope.resolve))
          .with(regionOf(source.right, this.scope.resolve));
    const right = this.#settleSource(source.right, within, [...outerKeys, ...leftKeys]);
    // Those of the others are looked at with WHERE.
    if (!regionConditions(this.source).includes(source.on)) this.#refuseSubLinks(source.on);
    if (right.kind === 'reference' || right.kind === 'local') return left;
    if (left.kind === 'reference' || left.kind === 'local') {
      if (isInner || right.kind === 'home') return right;
      this.#analysis.refuse(
        `The outer join keeps rows of ${source.sides[0]}, which is on every shard, also where ${source.sides[1]} has none, and each shard has a part of ${source.sides[1]}`,
        `Make ${source.sides[1]} a reference table, or put the sharded table on the side that is kept`,
      );
      return right;
    }
    if (left.kind === 'home' && right.kind === 'home') return left;
    if (left.kind === 'home' || right.kind === 'home') {
      this.#analysis.refuse(
        `${source.sides.join(' and ')} are joined, one of which is sharded, and the other is on the first shard only`,
        'Declare the table that is not sharded as a reference table, or shard it by the same key',
      );
      return left.kind === 'home' ? right : left;
    }
    if (left.kind !== 'sharded' || right.kind !== 'sharded') return left;
    if (!connected(left.keys, right.keys, within)) this.#refuseJoin(source, left, right);
    return { kind: 'sharded', keys: isInner ? [...left.keys, ...right.keys] : left.keys };
  }

  #settleFull(
    source: Extract<Source, { kind: 'join' }>,
    equalities: Equalities,
    outerKeys: readonly Column[],
  ): Spread {
    const left = this.#settleSource(source.left, equalities, outerKeys);
    const right = this.#settleSource(source.right, equalities, outerKeys);
    this.#refuseSubLinks(source.on);
    const kinds = [left.kind, right.kind];
    if (kinds.every(kind => kind === 'reference' || kind === 'local')) return left;
    if (kinds.every(kind => kind === 'reference' || kind === 'home')) return { kind: 'home' };
    // Rows without a partner are kept, so nothing but what ON says counts.
    const on = onOf(source, this.scope.resolve)
      .with(regionOf(source.left, this.scope.resolve))
      .with(regionOf(source.right, this.scope.resolve));
    if (left.kind === 'sharded' && right.kind === 'sharded') {
      if (!connected(left.keys, right.keys, on)) this.#refuseJoin(source, left, right);
      return { kind: 'sharded', keys: [] };
    }
    this.#analysis.refuse(
      `The FULL JOIN of ${source.sides.join(' and ')} keeps rows of both, one of which is sharded and the other is not`,
      'Shard both by the same key and join them on it',
    );
    return left.kind === 'sharded' ? left : right;
  }

  #refuseJoin(
    source: Extract<Source, { kind: 'join' }>,
    left: Extract<Spread, { kind: 'sharded' }>,
    right: Extract<Spread, { kind: 'sharded' }>,
  ): void {
    const names = (keys: readonly Column[]) =>
      keys.map(({ name }) => name).join(', ') || 'not selected';
    const { targetList, whereClause, sortClause, groupClause } = this.select;
    const copy = copyAdvice(
      this.source ?? source,
      [...source.on, ...conjunctsOf(whereClause)].flatMap(conjunctsOf),
      [targetList, whereClause, sortClause, groupClause],
      this.scope,
    );
    this.#analysis.refuse(
      `${source.sides.join(' and ')} are not joined on their shard keys (${names(left.keys)}; ${names(right.keys)}), so rows that match may be on different shards`,
      `Compare the shard keys in the join, make one of the tables a reference table, or ${copy ?? 'copy the column that is needed into the other table'}`,
    );
  }

  // ---- subqueries in expressions

  #settleSubLinks(
    expressions: unknown,
    equalities: Equalities,
    around: readonly Column[],
    from: Spread,
  ): Spread {
    let spread = from;
    for (const { subselect, subLinkType, testexpr, operName } of subLinksOf(expressions)) {
      if (!subselect || !('SelectStmt' in subselect)) continue;
      const level = this.inner(subselect.SelectStmt);
      const inner = level.settle(equalities, around);
      if (inner.kind === 'reference' || inner.kind === 'local') continue;
      if (inner.kind === 'home') {
        if (spread.kind === 'reference' || spread.kind === 'home') spread = inner;
        else if (!level.isCorrelated) this.#analysis.stage(level);
        else this.#refuseCorrelated(level, 'is on the first shard only');
        continue;
      }
      // IN has no operator; `= ANY` and `> ANY` have.
      const isIn = subLinkType === 'ANY_SUBLINK' && (!operName || isEquals(operName));
      if (inner.kind === 'sharded' && isIn) {
        const [output] = level.outputs ?? [];
        const tested = columnOf(testexpr, this.scope.resolve);
        const isKey = output && inner.keys.some(key => level.equalities.same(key, output));
        if (isKey && tested && around.some(key => equalities.same(key, tested))) continue;
      }
      if (level.isCorrelated) {
        this.#refuseCorrelated(
          level,
          inner.kind === 'global' ? inner.why : 'is not bound to the shard key of the row outside',
        );
      } else this.#analysis.stage(level, subLinkType === 'EXISTS_SUBLINK');
    }
    return spread;
  }

  #refuseCorrelated(level: Level, why: string): void {
    const table = firstTable(level.select);
    this.#analysis.refuse(
      `The subquery${table ? ` of ${table}` : ''} looks at the row outside of it and ${why}, so it may need rows of another shard`,
      'Compare the shard keys of both in its WHERE clause, make its table a reference table, or copy the column that is needed',
    );
  }

  /** A subquery in the ON of an outer join decides which rows are kept without a partner. */
  #refuseSubLinks(on: readonly Node[]): void {
    for (const { subselect } of subLinksOf(on)) {
      if (!subselect || !('SelectStmt' in subselect)) continue;
      const level = this.inner(subselect.SelectStmt);
      const { kind } = level.settle(Equalities.NONE, []);
      if (kind !== 'reference') {
        this.#analysis.refuse(
          `The ON clause of an outer join has a subquery of ${firstTable(level.select) ?? 'a table'}, which is not a reference table`,
          'Select the subquery in FROM and join it on the shard keys',
        );
      }
    }
  }
}
