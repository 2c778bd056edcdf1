/**
 * Where the value of a key comes from, and to which shards it leads.
 *
 * Holds true here: what is not certain to be a value of the key's type, compared as the key's type is, leads to
 * all shards (`undefined`), which is always right. Only NULL is known to lead nowhere.
 */
import type { Node, TypeName } from 'libpg-query';
import { familyOf, type KeyFamily, type Placement } from './placement.ts';
import { namesOf } from './tree.ts';

/** A constant or a parameter, perhaps with a cast. */
export type ValueSource = {
  /** The same text: the same value, within one execution. */
  readonly id: string;
  /** What it is cast to; undefined: what it is compared with decides. */
  readonly family: KeyFamily | undefined;
} & (
  | { readonly kind: 'constant'; readonly text: string | null }
  | { readonly kind: 'parameter'; readonly number: number }
  /** A parameter that holds an array, any of whose elements it may be. */
  | { readonly kind: 'elements'; readonly number: number }
);

/** The key is one of these. */
export interface Pin {
  /** Of the key. */
  readonly family: KeyFamily;
  readonly sources: readonly ValueSource[];
}

/** A value by itself; undefined for what has to be computed. */
export function valueSource(node: Node | undefined): ValueSource | undefined {
  if (!node) return undefined;
  if ('ParamRef' in node) {
    const number = node.ParamRef.number ?? 0;
    return { id: `$${number}`, family: undefined, kind: 'parameter', number };
  }
  if ('A_Const' in node) {
    const { ival, sval, fval, isnull } = node.A_Const;
    if (isnull) return { id: 'null', family: undefined, kind: 'constant', text: null };
    // An integer beyond int4 is a "float" to the scanner.
    const isWhole = fval && /^-?\d+$/.test(fval.fval ?? '');
    const text = ival ? String(ival.ival ?? 0) : sval ? (sval.sval ?? '') : fval?.fval;
    if (text === undefined || (fval && !isWhole)) return undefined;
    const family = sval ? undefined : 'integer';
    return { id: `'${text}'`, family, kind: 'constant', text };
  }
  if ('TypeCast' in node) {
    const family = castFamily(node.TypeCast.typeName);
    const source = family && valueSource(node.TypeCast.arg);
    if (!source || (source.family && source.family !== family)) return undefined;
    return { ...source, family };
  }
  return undefined;
}

/** Of a cast that keeps values of that family as they are. */
export function castFamily(type: TypeName | undefined): KeyFamily | undefined {
  if (!type || type.setof || type.arrayBounds?.length || type.typmods?.length) return undefined;
  const names = namesOf(type.names);
  if (!names || (names.length > 1 && names[0] !== 'pg_catalog')) return undefined;
  return familyOf(names.at(-1)!);
}

/** The right side of IN or = ANY. */
export function valueSources(node: Node | undefined): ValueSource[] | undefined {
  if (!node) return undefined;
  if ('TypeCast' in node) {
    const { arg, typeName } = node.TypeCast;
    const family = typeName?.arrayBounds?.length
      ? castFamily({ ...typeName, arrayBounds: [] })
      : undefined;
    if (!family) return undefined;
    return valueSources(arg)?.map(source => ({ ...source, family }));
  }
  if ('ParamRef' in node) {
    const number = node.ParamRef.number ?? 0;
    return [{ id: `any $${number}`, family: undefined, kind: 'elements', number }];
  }
  const items =
    'List' in node
      ? node.List.items
      : 'A_ArrayExpr' in node
        ? node.A_ArrayExpr.elements
        : undefined;
  if (!items) return undefined;
  const sources = items.map(valueSource);
  return sources.every(source => source !== undefined) ? sources : undefined;
}

/** A value as pg sends it; undefined for what pg writes in a way of its own: dates, bytes, objects. */
export function textOf(value: unknown): string | null | undefined {
  if (value === null || value === undefined) return null;
  return typeof value === 'object' || typeof value === 'function' ? undefined : String(value);
}

/**
 * The shards on which a row with such a key may be.
 * @returns undefined: on any
 */
export function shardsOf(
  pin: Pin,
  values: readonly unknown[],
  placement: Placement,
): Set<number> | undefined {
  const shards = new Set<number>();
  for (const source of pin.sources) {
    const found = sourceTexts(source, values);
    if (!found) return undefined;
    for (const text of found) {
      if (text === null) continue;
      if (text === undefined) return undefined;
      const shard = placement.shardOf(pin.family, text);
      if (shard === undefined) return undefined;
      shards.add(shard);
    }
  }
  return shards;
}

function sourceTexts(
  source: ValueSource,
  values: readonly unknown[],
): (string | null | undefined)[] | undefined {
  if (source.kind === 'constant') return [source.text];
  const value = values[source.number - 1];
  if (source.kind === 'parameter') return [textOf(value)];
  if (value === null || value === undefined) return [];
  return Array.isArray(value)
    ? value.map(item => (Array.isArray(item) ? undefined : textOf(item)))
    : undefined;
}
