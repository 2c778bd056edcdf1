/**
 * Topics and jobs: names with the schema of their payload, written once and imported by who publishes and who
 * handles.
 */
import type { StandardSchemaV1 } from '@standard-schema/spec';
import type { Duration } from '../cache/options.ts';

export interface RetryOptions {
  /** How often it may be tried in all; then it is a dead letter. From 1 to 1000. Default: 20. */
  maxAttempts?: number;
  /** The wait before the second attempt. Default: 1 second. */
  first?: Duration;
  /** By which the wait grows with each attempt. From 1 to 10. Default: 2. */
  factor?: number;
  /** The longest wait. With the defaults twenty attempts take about nine hours. Default: 1 hour. */
  max?: Duration;
}

interface Options<Schema extends StandardSchemaV1 | undefined> {
  /** Letters, digits, `-`, `_` and `.`; up to 100. It stands in the database: another name is another topic. */
  name: string;
  /**
   * What a payload has to be: of any library that speaks Standard Schema (Valibot, Zod, ArkType…). Checked when it is
   * published, and once more before it is handled: it may have been published by an older release.
   */
  schema?: Schema;
  /** Default of what follows is each option's own. */
  retry?: RetryOptions;
  /**
   * How long a handler may take, unless it calls `job.heartbeat()`. Then its signal is aborted, and the message fails.
   * From 10 ms to 30 days. Default: 5 minutes.
   */
  timeout?: Duration;
}

export interface TopicOptions<Schema extends StandardSchemaV1 | undefined>
  extends Options<Schema> {}

export interface JobOptions<Schema extends StandardSchemaV1 | undefined> extends Options<Schema> {
  /** How long what the handler returned can be asked for (`queue.result`). Default: not at all. */
  keepResults?: Duration;
}

type InputOf<S> = S extends StandardSchemaV1 ? StandardSchemaV1.InferInput<S> : unknown;
type OutputOf<S> = S extends StandardSchemaV1 ? StandardSchemaV1.InferOutput<S> : unknown;

/** Something that is published, to whoever has subscribed. */
export interface Topic<Input = unknown, Output = unknown> {
  readonly kind: 'topic' | 'job';
  readonly name: string;
  readonly schema: StandardSchemaV1 | undefined;
  readonly retry: RetryOptions;
  readonly timeout: Duration | undefined;
  /** Of types alone: what is published, and what a handler gets. */
  readonly types?: { readonly input: Input; readonly output: Output };
}

/** Something to be done: a topic with the one subscription `work`. */
export interface Job<Input = unknown, Output = unknown> extends Topic<Input, Output> {
  readonly kind: 'job';
  readonly keepResults: Duration | undefined;
}

/**
 * @example
 * export const articlePublished = defineTopic({
 *   name: 'article-published',
 *   schema: v.object({ articleId: v.string() }),
 * });
 */
export function defineTopic<const S extends StandardSchemaV1 | undefined = undefined>(
  options: TopicOptions<S>,
): Topic<InputOf<S>, OutputOf<S>> {
  const { name, schema, retry = {}, timeout } = options;
  return Object.freeze({
    kind: 'topic',
    name,
    schema,
    retry: Object.freeze({ ...retry }),
    timeout,
  });
}

/**
 * @example
 * export const welcomeMail = defineJob({
 *   name: 'welcome-mail',
 *   schema: v.object({ userId: v.string() }),
 *   retry: { maxAttempts: 10 },
 * });
 */
export function defineJob<const S extends StandardSchemaV1 | undefined = undefined>(
  options: JobOptions<S>,
): Job<InputOf<S>, OutputOf<S>> {
  const { name, schema, retry = {}, timeout, keepResults } = options;
  return Object.freeze({
    kind: 'job',
    name,
    schema,
    retry: Object.freeze({ ...retry }),
    timeout,
    keepResults,
  });
}
