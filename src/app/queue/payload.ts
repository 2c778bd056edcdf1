/** Payloads: checked by their schema, written as JSON, and read again. */
import type { StandardSchemaV1 } from '@standard-schema/spec';
import type { Topic } from './definitions.ts';
import { InvalidPayload, MessageTooLarge, PayloadNotJson } from './errors.ts';

/**
 * @param index of the message among several
 * @returns JSON of what was given: a schema's transformations are applied by who reads it
 * @throws InvalidPayload, PayloadNotJson, MessageTooLarge
 */
export async function encodePayload(
  topic: Topic<never, unknown>,
  payload: unknown,
  maxBytes: number,
  index?: number,
): Promise<string> {
  if (topic.schema) await validate(topic.name, topic.schema, payload, index);
  let text: string | undefined;
  try {
    text = JSON.stringify(payload === undefined && !topic.schema ? null : payload);
  } catch (error) {
    throw new PayloadNotJson(topic.name, error);
  }
  if (text === undefined) throw new PayloadNotJson(topic.name, undefined);
  // UTF-8 takes at most three bytes for each unit of UTF-16.
  if (text.length > maxBytes / 3) {
    const bytes = Buffer.byteLength(text);
    if (bytes > maxBytes) throw new MessageTooLarge(topic.name, bytes, maxBytes);
  }
  return text;
}

/** @returns what the schema makes of it. @throws InvalidPayload */
export async function decodePayload(topic: Topic<never, unknown>, text: string): Promise<unknown> {
  const payload: unknown = JSON.parse(text);
  return topic.schema ? validate(topic.name, topic.schema, payload, undefined) : payload;
}

async function validate(
  topic: string,
  schema: StandardSchemaV1,
  payload: unknown,
  index: number | undefined,
): Promise<unknown> {
  const answer = schema['~standard'].validate(payload);
  const result = answer instanceof Promise ? await answer : answer;
  if (!result.issues) return result.value;
  const { message, path = [] } = result.issues[0] ?? { message: 'it is refused' };
  const names = path.map(part => String(typeof part === 'object' ? part.key : part));
  throw new InvalidPayload(topic, names.join('.'), message, index);
}
