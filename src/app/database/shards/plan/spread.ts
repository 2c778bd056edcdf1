/** How the rows of a level are spread over the shards. */
import type { Column } from './equalities.ts';

export type Spread =
  /** Every shard gives the whole. */
  | { readonly kind: 'reference' }
  /** It is bound to the key of the row outside of it: all of it is where that is. */
  | { readonly kind: 'local' }
  /** The first shard gives the whole. */
  | { readonly kind: 'home' }
  /** Each shard gives a part; the columns that tell which. */
  | { readonly kind: 'sharded'; readonly keys: readonly Column[] }
  /** Each shard gives something from which the whole can be made, and `why` it is not a part. */
  | {
      readonly kind: 'global';
      readonly why: string;
      /** What it lacks is only that equal rows of several shards are made one. */
      readonly isUnion?: boolean;
    };

export const REFERENCE: Spread = { kind: 'reference' };
