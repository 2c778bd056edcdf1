/**
 * The loop of an autoscaler: a controller like any other, which takes its turn and journals what it does; when it is
 * killed nothing happens but that nobody scales until it is back.
 */
import { setTimeout as delay } from 'node:timers/promises';
import pino from 'pino';
import { BanyanError } from '../../errors.ts';
import { type Controller, withController } from '../controller.ts';
import type { DeploymentPaths } from '../deployment.ts';

const INTERVAL_MS = 2_000;

/** After this many failures in a row something is wrong that a restart may mend. */
const FAILURES_LIMIT = 10;

export const log = pino({ base: {} });

/**
 * Looks again and again until it is told to stop.
 * @param what is looked at, for the log
 * @throws what `look` threw, when it did so many times in a row
 */
export async function watchOver(
  paths: DeploymentPaths,
  signal: AbortSignal,
  what: string,
  look: (controller: Controller) => Promise<void>,
): Promise<void> {
  log.info(`looking every ${INTERVAL_MS / 1_000} s ${what}`);
  let failures = 0;
  while (!signal.aborted) {
    try {
      await withController(paths, look);
      failures = 0;
    } catch (error) {
      const { message } = error as Error;
      log.warn(`not this time: ${error instanceof BanyanError ? error.what : message}`);
      if (++failures >= FAILURES_LIMIT) throw error;
    }
    await delay(INTERVAL_MS, undefined, { signal }).catch(() => {});
  }
}
