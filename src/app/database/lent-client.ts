/**
 * A connection as `pool.transaction` lends it to the application's function: all that the real one is, except
 * that it can be taken back.
 *
 * Holds true here:
 * - What is under way on it is counted, so that nobody commits over a query that was not waited for.
 * - Once it is taken back nothing gets through: the real connection may be somebody else's by then.
 * - The function does not release it, and begins no second transaction on it.
 */
import type pg from 'pg';
import { NestedTransaction, NotYoursToRelease, TransactionOver } from './transaction-errors.ts';

export interface Loan {
  readonly client: pg.PoolClient;
  /** How many queries have not been answered. */
  readonly pending: number;
  takeBack(): void;
}

/** What pg calls when a submittable (a cursor, a stream, a copy) is done. */
interface Submittable {
  submit(connection: unknown): void;
  handleReadyForQuery?(...args: unknown[]): unknown;
}

type Callback = (...args: unknown[]) => void;

export function lend(real: pg.PoolClient): Loan {
  let pending = 0;
  let isOver = false;

  const track = () => {
    pending++;
    let isDone = false;
    return () => {
      if (!isDone) pending--;
      isDone = true;
    };
  };

  const query = (...args: unknown[]): unknown => {
    if (isOver) throw new TransactionOver();
    const done = track();
    const [first] = args;
    const last = args.at(-1);
    if (isSubmittable(first)) {
      const original = first.handleReadyForQuery;
      first.handleReadyForQuery = function (...ready) {
        done();
        return original?.apply(this, ready);
      };
    } else if (typeof last === 'function') {
      args[args.length - 1] = (...answer: unknown[]) => {
        done();
        (last as Callback)(...answer);
      };
    }
    const result = (real.query as (...args: unknown[]) => unknown)(...args);
    if (result instanceof Promise) {
      return result.finally(done);
    }
    return result;
  };

  const replaced = new Map<string | symbol, unknown>([
    ['query', query],
    [
      'release',
      () => {
        throw new NotYoursToRelease();
      },
    ],
    [
      'transaction',
      () => {
        throw new NestedTransaction();
      },
    ],
  ]);

  const client = new Proxy(real, {
    get(target, key) {
      if (replaced.has(key)) return replaced.get(key);
      const value: unknown = Reflect.get(target, key, target);
      // Libraries look at the class; and a method, on the proxy, could not reach private fields.
      if (typeof value !== 'function' || key === 'constructor') return value;
      return value.bind(target);
    },
  });
  return {
    client,
    get pending() {
      return pending;
    },
    takeBack() {
      isOver = true;
    },
  };
}

function isSubmittable(value: unknown): value is Submittable {
  return typeof (value as Partial<Submittable> | undefined)?.submit === 'function';
}
