/** UNION, INTERSECT, EXCEPT: whether what each shard makes of its parts are parts of the whole. Pure. */
import type { Analysis } from './analysis.ts';
import type { Column } from './equalities.ts';
import type { Level } from './level.ts';
import { REFERENCE, type Spread } from './spread.ts';

/**
 * How the rows of a UNION, INTERSECT or EXCEPT are spread.
 * @param left its branches' spreads
 */
export function unite(level: Level, analysis: Analysis, left: Spread, right: Spread): Spread {
  const { op, all = false } = level.select;
  const isUnion = op === 'SETOP_UNION' && !all;
  const union: Spread = { kind: 'global', why: 'is a UNION over all shards', isUnion: true };
  const [a, b] = [left, right].map((spread, i) => {
    if (spread.kind !== 'global' || (isUnion && spread.isUnion)) return spread;
    return answerFirst(analysis, level.branches![i]!, spread);
  }) as [Spread, Spread];
  const kinds = [a.kind, b.kind];
  const both = (...allowed: Spread['kind'][]) => kinds.every(kind => allowed.includes(kind));
  if (both('reference')) return a;
  if (both('reference', 'home')) return { kind: 'home' };
  if (both('reference', 'local')) return { kind: 'local' };
  if (both('sharded')) {
    const keys = commonKeys(level, a, b);
    if (op === 'SETOP_UNION' && all) return { kind: 'sharded', keys };
    if (keys.length > 0) return { kind: 'sharded', keys };
  }
  if (isUnion && both('sharded', 'reference', 'global')) return union;
  const rest = [a, b].map((spread, i) =>
    spread.kind === 'sharded' ? answerFirst(analysis, level.branches![i]!, spread) : spread,
  );
  const open = rest.find(({ kind }) => kind !== 'reference' && kind !== 'home');
  if (open) return { kind: 'global', why: 'puts together rows of a shard and of all shards' };
  return rest.some(({ kind }) => kind === 'home') ? { kind: 'home' } : REFERENCE;
}

/** A branch whose rows have to be known as a whole. */
function answerFirst(analysis: Analysis, branch: Level, spread: Spread): Spread {
  if (branch.isCorrelated) return spread;
  if (branch.hasUntyped) {
    analysis.refuse(
      'A part of a UNION, INTERSECT or EXCEPT that has to be answered first selects a constant or a parameter whose type is that of the other part',
      'Cast it to its type',
    );
  }
  analysis.stage(branch);
  return REFERENCE;
}

/** Places at which the rows of both have their shard key. */
function commonKeys(level: Level, a: Spread, b: Spread): Column[] {
  const [left, right] = level.branches!;
  const isKey = (branch: Level, spread: Spread, i: number) => {
    const output = branch.outputs?.[i];
    return (
      output !== undefined &&
      spread.kind === 'sharded' &&
      spread.keys.some(key => branch.equalities.same(key, output))
    );
  };
  return (level.outputs ?? []).filter(
    ({ family }, i) => family && isKey(left, a, i) && isKey(right, b, i),
  );
}
