/** What can be said of a part of FROM by itself. */
import { type Column, Equalities } from './equalities.ts';
import type { Level } from './level.ts';
import type { Scope, Source } from './scope.ts';
import { conjunctsOf } from './tree.ts';

/** Some column of each leads to the same shard. */
export function connected(
  a: readonly Column[],
  b: readonly Column[],
  equalities: Equalities,
): boolean {
  return a.some(one => b.some(other => equalities.same(one, other)));
}

/** What holds for every row that comes out of a part of FROM. */
export function regionOf(source: Source | undefined, resolve: Scope['resolve']): Equalities {
  if (source?.kind === 'query') return source.level.known;
  if (source?.kind !== 'join' || source.type === 'full') return Equalities.NONE;
  const left = regionOf(source.left, resolve);
  if (source.type === 'left') return left;
  return left.with(regionOf(source.right, resolve)).with(onOf(source, resolve));
}

/** What ON and USING say. */
export function onOf(
  { on, pairs }: Extract<Source, { kind: 'join' }>,
  resolve: Scope['resolve'],
): Equalities {
  return Equalities.NONE.and(on.flatMap(conjunctsOf), resolve).andPairs(pairs);
}

/** Expressions in FROM: of ON, and of functions. */
export function sourceExpressions(source: Source | undefined): unknown[] {
  if (source?.kind === 'rows') return [source.node];
  if (source?.kind !== 'join') return [];
  return [...source.on, ...sourceExpressions(source.left), ...sourceExpressions(source.right)];
}

/** The subqueries in FROM. */
export function sourceLevels(source: Source | undefined): Level[] {
  if (source?.kind === 'query') return [source.level];
  if (source?.kind !== 'join') return [];
  return [...sourceLevels(source.left), ...sourceLevels(source.right)];
}
