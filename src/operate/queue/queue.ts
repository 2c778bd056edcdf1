/** The queue, as operations look at it: through the application's own half, which knows all shards and engines. */

import { QUEUE_URL_VARIABLE } from '../../app/environment.ts';
import { createQueue } from '../../app/queue/create-queue.ts';
import type { Queue } from '../../app/queue/types.ts';
import { MAP_VARIABLE } from '../../map/map-file.ts';
import type { Controller } from '../controller.ts';
import { queueUrl } from './context.ts';

/** What does not publish and does not handle. */
export type QueueView = Pick<Queue, 'stats' | 'deadLetters' | 'replay' | 'discard' | 'cancel'>;

/** Of an application that uses none: the tables are not made by looking. */
const NO_QUEUE: QueueView = {
  stats: async () => [],
  deadLetters: async () => [],
  replay: async () => 0,
  discard: async () => 0,
  cancel: async () => false,
};

/** Runs `body` with the queue of a deployment that is up. */
export async function withQueue<T>(
  {
    catalog: { pool },
    deployment,
    queueContext,
  }: Pick<Controller, 'catalog' | 'deployment' | 'queueContext'>,
  body: (queue: QueueView) => Promise<T>,
): Promise<T> {
  const { rows } = await pool.query<{ found: boolean }>(
    `select to_regclass('banyan_queue.version') is not null as found`,
  );
  if (!rows[0]?.found) return body(NO_QUEUE);
  const env = {
    [MAP_VARIABLE]: deployment.paths.map,
    [QUEUE_URL_VARIABLE]: queueUrl(deployment, queueContext.externalUrl),
  };
  const queue = createQueue({ pool }, { env });
  try {
    return await body(queue);
  } finally {
    await queue.close();
  }
}
