/** One statement on its way: what it is, for whom it runs, and what is done with its connection. */
import type pg from 'pg';
import { isBroken, wasNotSent } from './breakage.ts';
import { cancelOn } from './cancel-request.ts';
import type { Scope } from './consistency/scope.ts';
import type { MemberState } from './members/member.ts';
import type { ReadWatch } from './read-watch.ts';
import type { StatementFacts } from './route/facts.ts';

/** What `query` may be given: a text, a configuration, or an object that sends itself (a cursor, a stream). */
export type QueryConfig = string | pg.QueryConfig | pg.QueryArrayConfig;

export type Done = (error: Error | undefined, result?: unknown) => void;

export interface Statement {
  readonly config: QueryConfig;
  readonly values: unknown[] | undefined;
  readonly text: string;
  /** Undefined while the parser and the catalog are not there yet: then nothing is known of it. */
  readonly facts: StatementFacts | undefined;
  readonly scope: Scope;
  /** Milliseconds that the answer may be old; undefined: not at all. */
  readonly staleness: number | undefined;
  /** When it came, or its turn, by `performance.now()`: it may be held for only so long. */
  came: number;
  readonly done: Done;
  /** It belongs on the primary, whatever the facts say. */
  readonly onPrimary?: boolean;
  /** Replicas that failed it. */
  tried?: Set<MemberState>;
  /** Times that its connection broke under it. */
  breaks: number;
  /** When it fires the answer is not needed any more: the statement is cancelled, or not sent. */
  readonly signal?: AbortSignal;
  /** Who wants to know what it reads. */
  readonly watch?: ReadWatch | undefined;
  /** Called when it has a connection, before it is sent. */
  onConnection?(client: pg.PoolClient, member: MemberState | undefined): void;
  /** Called when it has been answered: true keeps the connection, which is then the caller's to release. */
  keeps?(client: pg.PoolClient, member: MemberState | undefined): boolean;
}

/** As pg-pool does: the error's stack leads to the application's line, not to the socket's. For `catch`. */
export function throwFromHere(error: unknown): never {
  if (error instanceof Error) Error.captureStackTrace(error);
  throw error;
}

/** A transaction is open on the connection, or it has failed and waits for its end. */
export function isInTransaction(client: pg.ClientBase): boolean {
  const { getTransactionStatus } = client as unknown as {
    getTransactionStatus(): 'I' | 'T' | 'E' | null;
  };
  const status = getTransactionStatus.call(client);
  return status === 'T' || status === 'E';
}

/**
 * pg's own pool closes a connection after any error of `pool.query`, and keeps it after one of a client that
 * was checked out. So does this, where the error cannot have left a transaction behind.
 */
function isUsableAfter(error: Error, { keeps, facts }: Sending): boolean {
  if (!keeps || isBroken(error) || wasNotSent(error)) return false;
  return facts?.transaction.length === 0 && !facts.opaque && facts.pins === 'nothing';
}

/** Where a connection leads to, as `host:port`. */
export function addressOf(client: pg.ClientBase): string {
  const { host, port } = client as unknown as { host: string; port: number };
  return `${host}:${port}`;
}

/** What of a statement counts when it has its connection. */
export type Sending = Pick<Statement, 'config' | 'values'> &
  Partial<Pick<Statement, 'facts' | 'signal' | 'onConnection' | 'keeps'>>;

/**
 * Sends a statement on a connection that was taken from a pool, and gives the connection back.
 * @param done gets what pg gives; errors as they are
 */
export function sendOn(
  client: pg.PoolClient,
  statement: Sending,
  member: MemberState | undefined,
  done: Done,
): void {
  const { signal } = statement;
  if (signal?.aborted) {
    client.release();
    done(signal.reason as Error);
    return;
  }
  const stopCancelling = signal && cancelOn(signal, client);
  const finish = (failure: Error | null, result?: unknown) => {
    const error = failure ?? undefined;
    // What comes late must not hit the next one.
    if (stopCancelling?.()) client.release(true);
    else if (error) client.release(isUsableAfter(error, statement) ? undefined : error);
    else if (!statement.keeps?.(client, member)) client.release();
    done(error, result);
  };
  statement.onConnection?.(client, member);
  const { config } = statement;
  try {
    // pg writes values and callback into the object that it is given, which may be used for several at a time.
    const own = (typeof config === 'string' ? config : Object.create(config)) as string;
    client.query(own, statement.values as unknown[], finish);
  } catch (error) {
    finish(error as Error);
  }
}
