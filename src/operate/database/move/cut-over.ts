/**
 * The moment of a move in which the rows' place changes.
 *
 * It runs in the supervisor, not in the command that began the move: a command that is killed in the middle must
 * not leave the old place closed. The order is what makes it safe:
 *
 *     hold → close the old place → what was written there arrives → sequences → rows that were open are equal
 *          → the record on disk names the new place → the map does, and the hold is over
 *
 * Until the record is written everything is taken back by opening the old place again; from then on a start,
 * too, begins at the new one.
 */
import pg from 'pg';
import type { Member } from '../../../map/runtime-map.ts';
import type { Deployment } from '../../deployment.ts';
import { publishMembers, whileHeld } from '../hold.ts';
import { type DatabaseRecord, writeDatabaseRecord } from '../record.ts';
import { Comparison, type OpenTable } from './compare.ts';
import { requireSameSchema } from './compare-schema.ts';
import { copySequences, untilCaughtUp } from './follow.ts';
import type { MoveEnd } from './schema.ts';

/** While writes are held, so that they never are for longer than they may be. */
const CATCH_UP_MS = 3_000;

/** Plain data: it travels from the command to the supervisor. */
export interface CutOver {
  from: MoveEnd;
  to: MoveEnd;
  /** What the comparison beforehand did not see equal. */
  open: OpenTable[];
  record: DatabaseRecord;
  members: Member[];
}

/** @returns for how long writes were held, in milliseconds */
export async function cutOver(deployment: Deployment, move: CutOver): Promise<number> {
  const source = await connectTo(move.from);
  const target = await connectTo(move.to);
  const begun = performance.now();
  try {
    await whileHeld(deployment.paths, source, move.from.database, async () => {
      await close(source, move.from.database);
      try {
        await untilCaughtUp(source, target, CATCH_UP_MS);
        await copySequences(source, target);
        await requireSameSchema(source, target);
        const comparison = await Comparison.of(source, target);
        for (const open of move.open) await comparison.settle(open);
        await writeDatabaseRecord(deployment, move.record);
      } catch (error) {
        await open(source, move.from.database);
        throw error;
      }
      await publishMembers(deployment.paths, move.members);
    });
    return performance.now() - begun;
  } finally {
    await Promise.all([source.end(), target.end()]).catch(() => {});
  }
}

/** Nobody but a superuser may come in; who is in and idle is sent out. */
async function close(source: pg.Client, database: string): Promise<void> {
  await source.query(`alter database ${pg.escapeIdentifier(database)} connection limit 0`);
  await source.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
     where datname = $1 and backend_type = 'client backend' and application_name <> 'banyan operation'`,
    [database],
  );
}

/** The opposite. */
export async function open(source: Pick<pg.Client, 'query'>, database: string): Promise<void> {
  await source.query(`alter database ${pg.escapeIdentifier(database)} connection limit -1`);
}

export async function connectTo({ major: _major, ...end }: MoveEnd): Promise<pg.Client> {
  const client = new pg.Client({
    ...end,
    application_name: 'banyan operation',
    connectionTimeoutMillis: 5_000,
  });
  client.on('error', () => {});
  await client.connect();
  return client;
}
