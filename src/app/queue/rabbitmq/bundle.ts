/**
 * Small messages that are published at the same time travel as one of RabbitMQ's: for it a message is an entry of a log that is synced and
 * replicated, a confirmation, a delivery and an acknowledgement, whatever is in it.
 *
 * Holds true here:
 * - A bundle says nothing but which messages are in it: each keeps its id, and is settled by itself.
 * - What is alone, or large, travels as it is.
 */
import type { AsyncMessage } from 'rabbitmq-client';
import type { OutgoingMessage } from '../engine.ts';

/** A worker that dies has all of a bundle in hand, and one that is slow keeps it from others: not more than save nearly all of the cost. */
const MOST_MESSAGES = 16;
/** Characters of payloads. Beyond it the cost is that of the bytes. */
const MOST_CHARACTERS = 16_384;
/** The AMQP property `type` of a bundle. */
const TYPE = 'banyan.bundle';

export type Carried = Pick<OutgoingMessage, 'id' | 'payload'>;

export function charactersOf(messages: readonly Carried[]): number {
  return messages.reduce((sum, { payload }) => sum + payload.length, 0);
}

export function fitsTogether(messages: number, characters: number): boolean {
  return messages <= MOST_MESSAGES && characters <= MOST_CHARACTERS;
}

/** Those that may travel together, in their order. */
export function inBundles<T extends Carried>(messages: readonly T[]): T[][] {
  const bundles: T[][] = [];
  let last: T[] = [];
  let characters = 0;
  for (const message of messages) {
    const { length } = message.payload;
    if (last.length === 0 || !fitsTogether(last.length + 1, characters + length)) {
      last = [];
      characters = 0;
      bundles.push(last);
    }
    last.push(message);
    characters += length;
  }
  return bundles;
}

/** As RabbitMQ is given it: its id is that of the first message. */
export function pack(messages: readonly Carried[]): {
  messageId: string;
  type?: string;
  body: Buffer;
} {
  const [{ id, payload }] = messages as [Carried];
  if (messages.length === 1) return { messageId: id, body: Buffer.from(payload) };
  // No line break is in JSON as it is encoded, and none in an id.
  const lines = messages.map(each => `${each.id}\n${each.payload}`);
  return { messageId: id, type: TYPE, body: Buffer.from(lines.join('\n')) };
}

export function unpack(message: Pick<AsyncMessage, 'messageId' | 'type' | 'body'>): Carried[] {
  const text = String(message.body);
  if (message.type !== TYPE) return [{ id: String(message.messageId), payload: text }];
  const lines = text.split('\n');
  const messages: Carried[] = [];
  for (let i = 0; i + 1 < lines.length; i += 2) {
    messages.push({ id: lines[i]!, payload: lines[i + 1]! });
  }
  return messages;
}
