/**
 * Objects that send themselves over a connection: pg's own `Query`, pg-cursor, pg-query-stream,
 * pg-copy-streams. Of each the text is found, where it has one, and the moment when it is done.
 */
import type pg from 'pg';

export interface Submittable {
  submit(connection: pg.Connection): unknown;
  handleError(error: Error, connection?: pg.Connection): void;
  callback?: unknown;
  readonly text?: unknown;
  readonly cursor?: { readonly text?: unknown };
}

export function isSubmittable(config: unknown): config is Submittable {
  return typeof (config as { submit?: unknown } | null)?.submit === 'function';
}

/** Its SQL; undefined when it does not show it. */
export function textOf({ text, cursor }: Submittable): string | undefined {
  if (typeof text === 'string') return text;
  return typeof cursor?.text === 'string' ? cursor.text : undefined;
}

/** Resolves when the connection has nothing to do any more, or is gone. */
export function whenIdle(client: pg.ClientBase): Promise<void> {
  return new Promise(resolve => {
    const end = () => {
      client.removeListener('drain', end);
      client.removeListener('end', end);
      resolve();
    };
    client.once('drain', end);
    client.once('end', end);
  });
}
