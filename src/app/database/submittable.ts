/**
 * Objects that send themselves on a connection: cursors, streams, COPY (`pg-cursor`, `pg-query-stream`,
 * `pg-copy-streams`), and pg's own `Query`.
 */
import type pg from 'pg';

export interface Submittable {
  submit(connection: unknown): void;
}

export function isSubmittable(value: unknown): value is Submittable {
  return typeof (value as Partial<Submittable> | null | undefined)?.submit === 'function';
}

/** The statement that it will send, where it says so. */
export function textOf(query: Submittable): string | undefined {
  const { text, cursor } = query as { text?: unknown; cursor?: { text?: unknown } };
  const found = text ?? cursor?.text;
  return typeof found === 'string' ? found : undefined;
}

/** Calls back, once, when the connection has nothing to do any more, or has broken. */
export function afterAnswer(client: pg.PoolClient, callback: (error?: Error) => void): void {
  const finish = (error?: Error) => {
    client.removeListener('drain', onDrain);
    client.removeListener('error', finish);
    client.removeListener('end', onEnd);
    callback(error);
  };
  const onDrain = () => finish();
  const onEnd = () => finish(new Error('Connection terminated'));
  client.once('drain', onDrain);
  client.once('error', finish);
  client.once('end', onEnd);
}
