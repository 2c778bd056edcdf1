/**
 * `banyan down`: stops a deployment and everything of it, whether its supervisor lives or not.
 */
import { existsSync } from 'node:fs';
import { BanyanError } from '../errors.ts';
import { endLeftovers } from '../machines/leftovers.ts';
import { lockHolder } from '../machines/lock.ts';
import { waitForEnd } from '../machines/process-identity.ts';
import { UnitRecords } from '../machines/records.ts';
import { ControlClient, NotRunning, SupervisorSilent } from './control/client.ts';
import type { DeploymentPaths } from './deployment.ts';

/** PostgreSQL may write a long checkpoint, requests in flight may finish; beyond this something hangs. */
const STOP_TIMEOUT_MS = 120_000;

export class StopTooSlow extends BanyanError {
  constructor(pid: number) {
    super('STOP_TOO_SLOW', {
      what: `The supervisor has not ended after ${STOP_TIMEOUT_MS / 1_000} s`,
      where: `pid ${pid}`,
      remedy: `See \`banyan logs\`; \`kill -9 ${pid}\` ends it, and then what it runs; committed data is safe`,
    });
  }
}

/** `stopped`: it ran; `leftovers`: only remains of it did; `not running`: nothing did. */
export type DownOutcome = 'stopped' | 'leftovers' | 'not running';

/** @throws StopTooSlow, LeftoverStays */
export async function down(paths: DeploymentPaths): Promise<DownOutcome> {
  const holder = await lockHolder(paths.lock);
  if (holder) {
    try {
      await new ControlClient(paths.socket, paths.app).stopAll();
    } catch (error) {
      // It is just starting, or too busy to answer: the signal means the same.
      if (!(error instanceof NotRunning || error instanceof SupervisorSilent)) throw error;
      process.kill(holder.pid, 'SIGTERM');
      process.kill(holder.pid, 'SIGCONT');
    }
    if (!(await waitForEnd(holder, STOP_TIMEOUT_MS))) throw new StopTooSlow(holder.pid);
    return 'stopped';
  }
  if (!existsSync(paths.records)) return 'not running';
  const ended = await endLeftovers(new UnitRecords(paths.records));
  return ended.length > 0 ? 'leftovers' : 'not running';
}
