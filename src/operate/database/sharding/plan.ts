/**
 * From what runs to what should run, over all shards. Pure.
 *
 * Holds true here: each shard's servers are planned as those of a single database are; how many shards there are,
 * and of which kind, is fixed while the deployment serves, since rows would have to be moved.
 */
import { isDeepStrictEqual } from 'node:util';
import { BanyanError } from '../../../errors.ts';
import { type DatabaseStep, type ObservedDatabase, planDatabase } from '../plan.ts';
import type { Sharding } from '../record.ts';
import { type DatabaseShape, type ShardDeclaration, settingsRevision } from '../shape.ts';
import { countOf } from './start.ts';

/** `shard`: an index into the map's; missing with a single one. */
export type ShardStep = DatabaseStep & { shard?: number };

/** The number of shards was changed, or what they are made of. */
export class ShardsFixed extends BanyanError {
  constructor(what: string) {
    super('SHARDS_FIXED', {
      what: `${what}: rows would have to be moved between databases, which this version does not do while it serves (online resharding comes later)`,
      where: 'database.shards',
      remedy:
        'Nothing was changed. Write what runs into banyan.config.ts; while there are no tables yet, `banyan down` and `banyan up` give another number of shards',
    });
  }
}

/**
 * @param observed of each shard, in the map's order
 * @param sharding as it is written down
 * @throws ShardsFixed
 */
export function planShards(
  observed: ObservedDatabase[],
  sharding: Sharding | undefined,
  desired: DatabaseShape,
): ShardStep[] {
  const [first] = observed;
  if (desired.kind === 'external' || first!.serving === 'external') return [];
  const wanted = desired.shards ?? 1;
  const isSharded = observed.length > 1;
  if (wanted !== observed.length) {
    throw new ShardsFixed(
      `The database is in ${countOf(observed.length)}, and ${wanted === 1 ? 'one is' : `${wanted} are`} asked for`,
    );
  }
  if (isSharded && desired.kind !== first!.serving) {
    throw new ShardsFixed(
      desired.kind === 'cluster'
        ? 'The shards are single servers, and replicas are asked for'
        : 'The shards are replicated, and single servers are asked for',
    );
  }
  const steps = observed.flatMap((each, shard): ShardStep[] =>
    planDatabase(each, desired, ({ settings }) => settingsRevision(settings), shard).map(step =>
      isSharded ? { ...step, shard } : step,
    ),
  );
  if (!isDeepStrictEqual(declarationOf(sharding), declarationOf(desired.declaration))) {
    steps.push({ do: 'declare' });
  }
  return steps;
}

function declarationOf(declared: ShardDeclaration | undefined): ShardDeclaration {
  const { tables = {}, unique = [], denormalize = {} } = declared ?? {};
  return { tables, unique, denormalize };
}
