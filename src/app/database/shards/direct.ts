/**
 * The short way of most statements: as they came to the one shard that one of their parameters names, with nothing
 * awaited and nothing copied on the way.
 *
 * Holds true here:
 * - What goes this way would go the same way through the planner, which has planned the text once. Whatever is not
 *   certain (a value that is not plainly a key, another number of values) takes the planner's.
 * - A plan counts for as long as map and schema are the very ones that it was drawn from.
 */
import { LRUCache } from 'lru-cache';
import type { Catalog } from '../route/catalog.ts';
import type { QueryConfig } from '../statement.ts';
import type { LaneKey } from './lanes.ts';
import type { KeyFamily, Placement } from './plan/placement.ts';
import type { StatementPlan, Target } from './plan/plan.ts';
import { textOf, type ValueSource } from './plan/values.ts';

/** Which parameter is the key. */
export interface DirectPlan {
  /** Counted from 0. */
  readonly parameter: number;
  readonly family: KeyFamily;
  readonly writes: boolean;
  /** How many there are. */
  readonly parameters: number;
}

interface Entry {
  readonly placement: Placement;
  readonly catalog: Catalog;
  readonly plan: DirectPlan | undefined;
}

export interface DirectRoute {
  readonly shard: number;
  readonly key: LaneKey;
  readonly writes: boolean;
}

const MAX_TEXTS = 10_000;

/** @returns undefined for a plan that does not go to one shard by one parameter */
export function directPlan({
  action,
  writes,
  parameters,
  unknownTables,
}: StatementPlan): DirectPlan | undefined {
  if (unknownTables.length > 0) return undefined;
  let key: { family: KeyFamily; source: ValueSource | undefined } | undefined;
  if (action.kind === 'insert') {
    const [source, ...others] = action.keys;
    const isAsItCame = !action.computed && action.write(undefined) === undefined;
    if (others.length === 0 && isAsItCame) key = { family: action.family, source };
  } else if (action.kind === 'write') {
    if (!action.isAlone && !action.isCopied && !action.computed) key = keyOf(action.target);
  } else if (action.kind === 'whole' || action.kind === 'scatter') key = keyOf(action.target);
  const source = key?.source;
  if (!key || source?.kind !== 'parameter') return undefined;
  return { parameter: source.number - 1, family: key.family, writes, parameters };
}

/** All pins of a part hold, so one that is a single value is enough. */
function keyOf(target: Target): { family: KeyFamily; source: ValueSource } | undefined {
  if (target.kind !== 'keys' || target.parts.length !== 1) return undefined;
  for (const { family, sources } of target.parts[0]!) {
    const [source, ...others] = sources;
    if (source?.kind === 'parameter' && others.length === 0) return { family, source };
  }
  return undefined;
}

export class DirectRoutes {
  readonly #entries = new LRUCache<string, Entry>({ max: MAX_TEXTS });

  /** @returns undefined for what takes the planner's way */
  find(
    config: QueryConfig,
    given: readonly unknown[] | undefined,
    placement: Placement,
    catalog: Catalog,
  ): DirectRoute | undefined {
    const isText = typeof config === 'string';
    const entry = this.#entries.get(isText ? config : config.text);
    if (!entry?.plan || entry.placement !== placement || entry.catalog !== catalog)
      return undefined;
    const { parameter, family, writes, parameters } = entry.plan;
    const values = given ?? (isText ? undefined : (config.values as unknown[] | undefined));
    if (values?.length !== parameters) return undefined;
    const text = textOf(values[parameter]);
    if (text === null || text === undefined) return undefined;
    const shard = placement.shardOf(family, text);
    return shard === undefined ? undefined : { shard, writes, key: { family, text } };
  }

  /** Whether a text is known here, under the same map and schema. */
  knows(text: string, placement: Placement, catalog: Catalog): boolean {
    const entry = this.#entries.get(text);
    return entry?.placement === placement && entry.catalog === catalog;
  }

  learn(text: string, placement: Placement, catalog: Catalog, plan: DirectPlan | undefined): void {
    this.#entries.set(text, { placement, catalog, plan });
  }
}
