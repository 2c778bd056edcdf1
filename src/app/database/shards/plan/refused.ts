/** A statement that cannot be answered right by several shards, refused before anything of it was sent. */
import { BanyanError } from '../../../../errors.ts';

export class ShardRefused extends BanyanError {
  /** feature_not_supported, for who looks at SQLSTATEs. */
  readonly sqlState = '0A000';

  /**
   * @param what a sentence that names tables and columns
   * @param remedy what to do instead
   */
  constructor(what: string, remedy: string) {
    super('SHARD_REFUSED', { what, where: 'the sharded database', remedy });
  }
}

/** What a plan cannot do, before it is known whether it has to. */
export interface Refusal {
  readonly what: string;
  readonly remedy: string;
}
