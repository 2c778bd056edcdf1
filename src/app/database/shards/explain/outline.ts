/**
 * What a plan will send where, as far as that is known before anything runs. Pure.
 *
 * Holds true here: a text without values depends on the answers to those before it, so nobody can ask a shard for its
 * plan yet.
 */
import { bindParameters, ownersOf, rowsWanted } from '../bind.ts';
import { describeMerge } from '../plan/describe.ts';
import type { Placement } from '../plan/placement.ts';
import type { Action, InsertAction, Limits, StatementPlan, Target } from '../plan/plan.ts';
import type { Written } from '../plan/tree.ts';
import { textOf, type ValueSource } from '../plan/values.ts';

/** One text that goes to some shards. */
export interface Sent {
  readonly shards: readonly number[];
  readonly text: string;
  /** Undefined: they are not known before it runs. */
  readonly values: readonly unknown[] | undefined;
}

/** A query that is answered first; its rows take the place of `name` in what is sent after it. */
export interface Step {
  readonly name: string;
  readonly query: Written;
}

export interface Outline {
  /** Undefined: all of it is sent as it came, to the one shard of the route. */
  readonly sent: readonly Sent[] | undefined;
  /** Where it goes, unless its steps tell. */
  readonly shards: readonly number[] | undefined;
  readonly steps: readonly Step[];
  /** How the answers become one. */
  readonly merge: readonly string[];
}

/** @returns undefined when PostgreSQL has to read a key's value first */
export function outlineOf(
  plan: StatementPlan,
  values: readonly unknown[],
  placement: Placement,
  maxMergedRows: number,
): Outline | undefined {
  const { action, text } = plan;
  const asItCame = (shard: number): Outline => ({
    sent: undefined,
    shards: [shard],
    steps: [],
    merge: [],
  });
  // PostgreSQL says that there are too many parameters, or too few.
  if (action.kind !== 'whole' && plan.parameters !== values.length) return asItCame(0);
  const whole = (shards: readonly number[]): Sent => ({ shards, text, values });
  const bound = (shards: readonly number[], written: Written, limit?: bigint): Sent => ({
    shards,
    text: written.text,
    values: bindParameters(written, values, limit),
  });
  switch (action.kind) {
    case 'whole': {
      const shards = shardsOf(action.target, values, placement);
      return shards && asItCame(shards[0]!);
    }
    case 'scatter': {
      const shards = shardsOf(action.target, values, placement) ?? allOf(placement);
      if (shards.length === 1) return asItCame(shards[0]!);
      const limits = action.merge.kind === 'rows' ? action.merge.limits : NO_LIMITS;
      const limit = rowsWanted(readLimits(limits, values), maxMergedRows);
      const merge = describeMerge(action.merge);
      return { sent: [bound(shards, action.partial, limit)], shards, steps: [], merge };
    }
    case 'write': {
      const shards = shardsOf(action.target, values, placement) ?? allOf(placement);
      if (shards.length === 1) return asItCame(shards[0]!);
      const { computed } = action;
      const sent = computed
        ? [
            bound([0], computed.values.query),
            { shards, text: computed.statement.text, values: undefined },
          ]
        : [whole(shards)];
      return { sent, shards, steps: [], merge: [action.isCopied ? COPIED : ADDED_UP] };
    }
    case 'insert':
      return outlineOfInsert(action, values, placement);
    case 'copied insert': {
      const shards = allOf(placement);
      const sent = [
        bound([0], action.first),
        { shards: shards.slice(1), text: action.copy, values: undefined },
      ];
      return { sent, shards, steps: [], merge: [COPIED] };
    }
    case 'move':
      return {
        sent: [{ shards: [], text: action.insert.text, values: undefined }],
        shards: undefined,
        steps: [{ name: `${action.prefix}0`, query: action.query }],
        merge: [ADDED_UP],
      };
    case 'staged':
      return {
        sent: [{ shards: [], text: action.rest.text, values: undefined }],
        shards: undefined,
        steps: action.stages.map((query, i) => ({ name: `${action.prefix}${i}`, query })),
        merge: [],
      };
  }
}

const ADDED_UP = 'merge: rows one after the other, counts added up; all is kept, or nothing';
const COPIED = "merge: the first shard's answer counts for all; all is kept, or nothing";
const NO_LIMITS: Limits = { count: undefined, offset: undefined };

function outlineOfInsert(
  action: InsertAction,
  values: readonly unknown[],
  placement: Placement,
): Outline | undefined {
  const { computed, keys, family } = action;
  if (computed) {
    const text = action.write(undefined)?.text ?? '';
    return {
      sent: [
        {
          shards: [0],
          text: computed.query.text,
          values: bindParameters(computed.query, values),
        },
        { shards: [], text, values: undefined },
      ],
      shards: undefined,
      steps: [],
      merge: [ADDED_UP],
    };
  }
  const rowsOf = new Map<number, number[]>();
  for (const [row, source] of keys.entries()) {
    const [shard] = ownersOf([[{ family, sources: [source] }]], values, placement) ?? [];
    if (shard === undefined) return undefined;
    rowsOf.set(shard, [...(rowsOf.get(shard) ?? []), row]);
  }
  const shards = [...rowsOf.keys()].sort((a, b) => a - b);
  if (shards.length === 1) {
    return { sent: undefined, shards, steps: [], merge: [] };
  }
  const sent = shards.map(shard => {
    const written = action.write(rowsOf.get(shard)!)!;
    return { shards: [shard], text: written.text, values: bindParameters(written, values) };
  });
  return { sent, shards, steps: [], merge: [ADDED_UP] };
}

/** @returns undefined when a value's shard cannot be told by itself */
function shardsOf(
  target: Target,
  values: readonly unknown[],
  placement: Placement,
): number[] | undefined {
  switch (target.kind) {
    case 'first':
    case 'any':
      return [0];
    case 'shard':
      return [target.shard];
    case 'all':
      return allOf(placement);
    case 'keys':
      return ownersOf(target.parts, values, placement);
  }
}

const allOf = ({ shards }: Placement) => Array.from({ length: shards }, (_, i) => i);

function readLimits({ count, offset }: Limits, values: readonly unknown[]) {
  return { count: readLimit(count, values), offset: readLimit(offset, values) };
}

/** What PostgreSQL would have to read counts as no limit: it changes only the estimate. */
function readLimit(
  source: ValueSource | undefined,
  values: readonly unknown[],
): bigint | undefined {
  if (!source) return undefined;
  const text = textOf(source.kind === 'constant' ? source.text : values[source.number - 1]);
  return text && /^-?\d{1,18}$/.test(text) ? BigInt(text) : undefined;
}

/** The target of an action that has one. */
export function targetOf(action: Action): Target | undefined {
  return 'target' in action ? action.target : undefined;
}
