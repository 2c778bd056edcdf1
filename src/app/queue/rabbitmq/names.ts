/** How exchanges and queues are called, and made. */
import type { Channel } from 'rabbitmq-client';

export function exchangeOf(topic: string): string {
  return `banyan.${topic}`;
}

export function queueOf(topic: string, subscription: string): string {
  return `banyan.${topic}/${subscription}`;
}

/** A header of a message that was in a bundle whose worker died. */
export const SUSPECT = 'banyan-suspect';

/** What notes of effects are kept under: apart from those of deliveries in PostgreSQL, which may be of the same message. */
export function noteOf(topic: string, subscription: string): string {
  return `rabbitmq:${topic}/${subscription}`;
}

/** From now on messages of the topic are kept for these. Idempotent. */
export async function declareTopic(
  channel: Channel,
  topic: string,
  subscriptions: readonly string[],
): Promise<void> {
  const exchange = exchangeOf(topic);
  await channel.exchangeDeclare({ exchange, type: 'fanout', durable: true });
  for (const subscription of subscriptions) {
    const queue = queueOf(topic, subscription);
    await channel.queueDeclare({
      queue,
      durable: true,
      arguments: { 'x-queue-type': 'quorum' },
    });
    await channel.queueBind({ exchange, queue });
  }
}
