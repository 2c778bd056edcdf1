/**
 * A primary and a hot standby that follows it, for a test file:
 *
 *     const pair = await StandbyPair.start();   // in beforeAll; remove() in afterAll
 *     await pair.caughtUp();                    // what was written to the primary is on the standby
 *
 * What can be done to the servers themselves is in `cluster.ts`.
 */
import type pg from 'pg';
import { Cluster } from './cluster.ts';

export class StandbyPair {
  readonly cluster: Cluster;
  readonly primary: pg.Pool;
  readonly standby: pg.Pool;

  private constructor(cluster: Cluster) {
    this.cluster = cluster;
    this.primary = cluster.poolTo(cluster.members[0]!);
    this.standby = cluster.poolTo(cluster.members[1]!);
  }

  static async start(): Promise<StandbyPair> {
    return new StandbyPair(await Cluster.start());
  }

  /** To another database of the primary, or of the standby. Ended by `remove`. */
  poolTo(database: string, where: 'primary' | 'standby' = 'primary'): pg.Pool {
    return this.cluster.poolTo(this.cluster.members[where === 'primary' ? 0 : 1]!, database);
  }

  /** Waits until the standby has replayed what the primary has written so far. */
  caughtUp(): Promise<void> {
    return this.cluster.caughtUp();
  }

  remove(): Promise<void> {
    return this.cluster.remove();
  }
}
