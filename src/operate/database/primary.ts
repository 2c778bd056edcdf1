/** Which of several servers takes writes, asked from the servers themselves. */
import { BanyanError } from '../../errors.ts';
import { readRuntimeMap } from '../../map/map-file.ts';
import type { Member } from '../../map/runtime-map.ts';
import type { Deployment } from '../deployment.ts';
import { pollUntil } from '../poll.ts';
import { withClient } from './provision.ts';
import { ownerUrl } from './running.ts';

/** A primary that was lost is replaced within this. */
const PATIENCE_MS = 30_000;
/** One that is frozen keeps nobody waiting: the others are asked at the same time. */
const ANSWER_MS = 2_000;

export class NobodyTakesWrites extends BanyanError {
  constructor(members: readonly Member[]) {
    super('NOBODY_TAKES_WRITES', {
      what: 'None of the database servers takes writes',
      where: members.map(({ host, port }) => `${host}:${port}`).join(', '),
      remedy:
        'See `banyan status` for how they fare; `banyan failover <node>` makes one the primary',
    });
  }
}

/**
 * A single server is taken as it is.
 * @throws NobodyTakesWrites after half a minute
 */
export async function findPrimary(
  deployment: Deployment,
  members: readonly Member[],
): Promise<Member> {
  if (members.length === 1) return members[0]!;
  const found = await pollUntil(PATIENCE_MS, async () => {
    const answers = await Promise.all(members.map(each => takesWrites(deployment, each)));
    return members[answers.indexOf(true)];
  });
  if (!found) throw new NobodyTakesWrites(members);
  return found;
}

/**
 * The owner's URLs to the primary of each shard, in the map's order.
 * @param url of a database that Banyan does not run
 * @throws NobodyTakesWrites
 */
export async function shardUrls(deployment: Deployment, url?: string): Promise<string[]> {
  if (url) return [url];
  const { shards } = readRuntimeMap(deployment.paths.map).database;
  const primaries = await Promise.all(
    shards.map(({ members }) => findPrimary(deployment, members)),
  );
  return primaries.map(primary => ownerUrl(deployment, primary));
}

async function takesWrites(deployment: Deployment, member: Member): Promise<boolean> {
  try {
    return await withClient(
      ownerUrl(deployment, member),
      async client => {
        const { rows } = await client.query<{ standby: boolean }>(
          'select pg_is_in_recovery() as standby',
        );
        return rows[0]?.standby === false;
      },
      { connectMs: ANSWER_MS, queryMs: ANSWER_MS },
    );
  } catch {
    return false;
  }
}
