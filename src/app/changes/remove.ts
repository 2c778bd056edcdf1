/**
 * Takes away what a reader has made. A slot that nobody reads holds back the log of its server until the disk is full.
 *
 * Holds true here: it is taken from **every** member. Patroni copies slots to replicas, and does not take away there
 * what it does not know. Take it out of Patroni's configuration first, or it makes it again.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { escapeIdentifier } from 'pg';
import { hasCode } from '../../errors.ts';
import { withoutLimits } from './access.ts';
import { type Address, abandon, connect } from './primary.ts';
import { dropSlot } from './slot.ts';

export interface RemoveOptions {
  readonly members: readonly Address[];
  readonly connection: pg.ClientConfig;
  readonly slot: string;
  /** Taken away as well, if it is given. */
  readonly publication?: string;
}

/** A reader that was closed is gone for the server after milliseconds. */
const PATIENCE_MS = 10_000;
const PAUSE_MS = 50;

/**
 * Drops the slot on all members, its note, and the publication. What is not there is no error. Close the readers first.
 * @throws 55006 when somebody goes on reading; what a member that does not answer throws, after the others were done
 */
export async function removeSlot(options: RemoveOptions): Promise<void> {
  const { members, connection } = options;
  const config = withoutLimits(connection);
  const results = await Promise.allSettled(
    members.map(async member => {
      const client = await connect(member, config);
      try {
        await removeFrom(client, options);
      } finally {
        abandon(client);
      }
    }),
  );
  const failed = results.find(({ status }) => status === 'rejected');
  if (failed) throw (failed as PromiseRejectedResult).reason;
}

async function removeFrom(client: pg.Client, { slot, publication }: RemoveOptions): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      await dropSlot(client, slot);
      break;
    } catch (error) {
      if (!hasCode(error, '55006') || performance.now() > deadline) throw error;
    }
    await delay(PAUSE_MS);
  }
  const { rows } = await client.query<{ standby: boolean; noted: boolean }>(
    `select pg_is_in_recovery() as standby, to_regclass('banyan.log_readers') is not null as noted`,
  );
  const { standby, noted } = rows[0]!;
  if (standby) return;
  if (noted) await client.query('delete from banyan.log_readers where slot = $1', [slot]);
  if (publication)
    await client.query(`drop publication if exists ${escapeIdentifier(publication)}`);
}
