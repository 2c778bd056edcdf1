/**
 * What `pool.connect()` gives where there are replicas: to the application a `pg.PoolClient` in everything,
 * underneath a connection only for as long as one is needed (`client-connection.ts`).
 */
import type pg from 'pg';
import { processIdAt } from './cancel.ts';
import { ClientConnection, type Held, type Request } from './client-connection.ts';
import { stalenessOf } from './consistency/staleness.ts';
import { QueuedClient } from './queued-client.ts';
import type { Router } from './router.ts';
import type { QueryConfig } from './statement.ts';
import { type Submittable, textOf } from './submittable.ts';

/** Events of a connection that the application may listen for on its client. */
const FORWARDED = ['notice', 'notification', 'error', 'end'] as const;

export class RoutedClient extends QueuedClient {
  readonly #router: Router;
  readonly #connection: ClientConnection;
  #current: Held | undefined;
  #listeners: [event: string, listener: (...args: unknown[]) => void][] = [];

  constructor(router: Router, options: pg.PoolConfig) {
    super(options);
    this.#router = router;
    this.#connection = new ClientConnection(router, {
      onTaken: held => this.#onTaken(held),
      onGiven: held => this.#onGiven(held),
    });
  }

  /** Of the server process that runs, or ran last, its statements; `pool.query` finds its server by it. */
  get processID(): number | null {
    const current = this.#current;
    const pid = (current?.client as { processID?: number } | undefined)?.processID;
    return pid === undefined ? null : processIdAt(current!.member, pid);
  }

  /** `I` outside of a transaction, `T` within one, `E` within one that has failed. */
  getTransactionStatus(): 'I' | 'T' | 'E' | null {
    const held = this.#connection.held as { client: object } | undefined;
    if (!held) return 'I';
    return (
      held.client as { getTransactionStatus(): 'I' | 'T' | 'E' | null }
    ).getTransactionStatus();
  }

  protected override get connection(): pg.ClientBase | undefined {
    return this.#current?.client;
  }

  protected override take(
    config: QueryConfig,
    values: unknown[] | undefined,
  ): () => Promise<unknown> {
    const staleness = stalenessOf(config, this.#router.staleness);
    const request: Request = this.#router.statement(config, values, () => {}, staleness);
    return () => {
      request.came = performance.now();
      return this.#connection.run(request);
    };
  }

  protected override takeSubmittable(query: Submittable): () => Promise<void> {
    const request = this.#router.statement(textOf(query) ?? '', undefined, () => {});
    return () => this.#connection.submit(query, request);
  }

  protected override giveBack(error: Error | boolean | undefined): void {
    this.#connection.release(error);
  }

  #onTaken(held: Held): void {
    this.#current = held;
    for (const event of FORWARDED) {
      const listener = (...args: unknown[]) => {
        // Nobody has to listen: the next query tells of it as well.
        if (this.listenerCount(event) > 0) this.emit(event, ...args);
      };
      this.#listeners.push([event, listener]);
      held.client.on(event as 'end', listener);
    }
  }

  #onGiven({ client }: Held): void {
    for (const [event, listener] of this.#listeners) client.removeListener(event, listener);
    this.#listeners = [];
  }
}
