/**
 * A connection that was checked out where there are no replicas, for as long as it is: what it reads is told to the
 * watch of whoever sends it, and that it has written to whoever keeps count of that.
 *
 * Holds true here: a transaction that began outside of the watched function spoils it, since its snapshot may be
 * older than anything that is asked now.
 */
import type pg from 'pg';
import type { SingleConsistency } from './consistency/single.ts';
import { currentWatch, partsOf, type ReadWatch, type Watched } from './read-watch.ts';
import { addressOf, isInTransaction } from './statement.ts';
import { isSubmittable } from './submittable.ts';

type Query = (...args: unknown[]) => unknown;

/** Watches it until its release. */
export function watchClient(
  pool: Watched,
  client: pg.PoolClient,
  single: SingleConsistency | undefined,
): pg.PoolClient {
  const query = client.query as Query;
  const { release } = client;
  /** Of whoever began the transaction. */
  let within: ReadWatch | undefined;
  const watched: Query = (...args) => {
    const watch = currentWatch();
    const scope = single?.scope();
    const [config] = args;
    if (isSubmittable(config)) {
      watch?.spoil('reads with a cursor or a stream');
      scope?.noteWrite();
      return query.apply(client, args);
    }
    if (watch && isInTransaction(client) && within !== watch) {
      watch.spoil('reads in a transaction that began outside of it');
    }
    within = watch;
    const { text, values } = partsOf(config, args[1]);
    const done = (error: unknown, result?: unknown) => {
      if (scope) single?.noteAnswer(text, scope);
      if (!error) watch?.answered(pool, text, values, result);
    };
    const wait = watch?.atPrimary(pool, addressOf(client));
    const last = args.at(-1);
    if (typeof last === 'function') {
      args[args.length - 1] = (error: unknown, result: unknown) => {
        done(error, result);
        (last as (...answer: unknown[]) => void)(error, result);
      };
      if (!wait) return query.apply(client, args);
      void wait.then(() => query.apply(client, args));
      return undefined;
    }
    const send = () => query.apply(client, args) as Promise<unknown>;
    const answer = wait ? wait.then(send) : send();
    return answer.then(
      result => {
        done(undefined, result);
        return result;
      },
      error => {
        done(error);
        throw error;
      },
    );
  };
  client.query = watched as typeof client.query;
  client.release = (error?: Error | boolean) => {
    client.query = query as typeof client.query;
    client.release = release;
    release.call(client, error);
  };
  return client;
}
