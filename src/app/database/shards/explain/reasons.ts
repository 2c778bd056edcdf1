/** Why a statement goes where it goes, in words for people. Pure. */
import type { TableUse } from '../../route/facts.ts';
import { ownersOf } from '../bind.ts';
import type { PlacedTable, Placement } from '../plan/placement.ts';
import type { Action, Pins } from '../plan/plan.ts';
import { type Pin, textOf, type ValueSource } from '../plan/values.ts';
import { targetOf } from './outline.ts';

/** Of a long list the first ones tell enough. */
const MAX_KEYS = 5;

export interface ReasonInput {
  readonly tables: readonly TableUse[];
  readonly placement: Placement;
  readonly values: readonly unknown[];
  /** Of the shards, in the map's order. */
  readonly names: readonly string[];
}

/** @returns one line for each table, and for what decides */
export function reasonsOf(action: Action, input: ReasonInput): string[] {
  return [...tablesOf(input), ...decisionsOf(action, input)];
}

/** `shard 2`, `shards 1 and 3`, `shards 1 to 4, all of them`. */
export function shardsText(shards: readonly number[], names: readonly string[]): string {
  const own = shards.map(shard => names[shard] ?? String(shard));
  const [first] = own;
  if (own.length < 2) return `shard ${first ?? '?'}`;
  const list =
    own.length > 3 && own.length === names.length
      ? `${first} to ${own.at(-1)}`
      : `${own.slice(0, -1).join(', ')} and ${own.at(-1)}`;
  return `shards ${list}${own.length === names.length ? ', all of them' : ''}`;
}

const WORDS: Record<PlacedTable['kind'], (table: PlacedTable) => string> = {
  sharded: ({ key }) => `is sharded by ${key}`,
  reference: () => 'is a reference table, whole on every shard',
  home: () => 'is whole on the first shard',
  view: () => 'is a view: what it reads decides',
  system: () => "is PostgreSQL's own, asked on the first shard",
};

function tablesOf({ tables, placement }: ReasonInput): string[] {
  const lines = new Set<string>();
  for (const { schema, name } of tables) {
    const table = placement.table(schema, name);
    if (table) lines.add(`${name} ${WORDS[table.kind](table)}`);
  }
  return [...lines];
}

function decisionsOf(action: Action, input: ReasonInput): string[] {
  if (action.kind === 'insert') {
    if (action.computed) return ['the first shard computes values, and a key may be one of them'];
    return keysText({ family: action.family, sources: action.keys }, input);
  }
  if (action.kind === 'copied insert')
    return ['the first shard makes the rows, and all others copy them'];
  if (action.kind === 'move')
    return ['rows are selected where they are, and inserted where their key belongs'];
  if (action.kind === 'staged') return ['a part of it has to be answered first, by itself'];
  const target = targetOf(action);
  switch (target?.kind) {
    case 'any':
      return ['every shard would give the same: one of them is asked'];
    case 'all':
      return ['every shard has it, and has to go on having the same'];
    case 'keys':
      return [...new Set(target.parts.flatMap(pins => pinsText(pins, input)))];
    default:
      return input.tables.length === 0 ? ['it names no table: the first shard answers'] : [];
  }
}

function pinsText(pins: Pins, input: ReasonInput): string[] {
  if (pins.length === 0) return ['no condition gives the shard key: every shard is asked'];
  return pins.flatMap(pin => keysText(pin, input));
}

/** `key 1, 4 and 7 → shard 2`: by shard. */
function keysText({ family, sources }: Pin, { placement, values, names }: ReasonInput): string[] {
  const keys = new Map<number | undefined, string[]>();
  for (const source of sources) {
    const found = ownersOf([[{ family, sources: [source] }]], values, placement);
    for (const shard of found ?? [undefined]) {
      keys.set(shard, [...(keys.get(shard) ?? []), sourceText(source, values)]);
    }
  }
  return [...keys].map(([shard, texts]) => {
    const shown = texts.slice(0, MAX_KEYS).join(', ');
    const more = texts.length > MAX_KEYS ? ` and ${texts.length - MAX_KEYS} more` : '';
    const where = shard === undefined ? 'not known before it is read' : shardsText([shard], names);
    return `shard key ${shown}${more} → ${where}`;
  });
}

function sourceText(source: ValueSource, values: readonly unknown[]): string {
  if (source.kind === 'constant') return source.text ?? 'NULL';
  const value = values[source.number - 1];
  const text = Array.isArray(value) ? value.map(textOf).join(', ') : textOf(value);
  return `${text ?? 'NULL'} ($${source.number})`;
}
