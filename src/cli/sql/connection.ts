/** What the prompt and scripts speak through: one server, or the whole of a database in shards. */
import pg from 'pg';
import pc from 'picocolors';

export interface SqlConnection {
  /** For the prompt: the database, and which shard of it when it is one of several. */
  readonly label: string;
  /** For the greeting: `shop, 4 shards`. */
  readonly greeting: string;
  /** `T` in a transaction, `E` in one that failed, else `I`. */
  readonly transaction: string;
  /** The connection was lost. */
  readonly broken: Error | undefined;
  connect(): Promise<unknown>;
  /**
   * As pg's, with an error only when `transaction` says what it left.
   * @throws what PostgreSQL says; `position` counts in the given text
   */
  query(config: pg.QueryConfig): Promise<pg.QueryResult | pg.QueryResult[]>;
  /** Cancels the statement that runs, over connections of its own, as PostgreSQL wants it. */
  cancel(): Promise<void>;
  end(): Promise<void>;
}

/** What an error of one shard of several has besides. */
export interface OnShard {
  /** Its id. */
  onShard?: string | undefined;
}

/** Of a cancellation: whoever presses Ctrl-C does not wait longer. */
export const HELPER_TIMEOUT_MS = 5_000;

/** Shows what a server says by itself. */
export function showEvents(client: pg.ClientBase): void {
  client.on('notice', ({ severity, message }) => {
    process.stderr.write(`${pc.yellow(severity ?? 'NOTICE')}: ${message}\n`);
  });
  client.on('notification', ({ channel, payload }) => {
    process.stderr.write(`${pc.cyan(`notification on ${channel}`)}: ${payload ?? ''}\n`);
  });
}

export class ServerConnection implements SqlConnection {
  readonly #url: string;
  readonly #client: pg.Client;
  readonly #shard: string | undefined;
  #broken: Error | undefined;

  /** @param shard its id, when there are several */
  constructor(url: string, shard?: string) {
    this.#url = url;
    this.#shard = shard;
    this.#client = new pg.Client({ connectionString: url, application_name: 'banyan sql' });
    this.#client.on('error', error => {
      this.#broken = error;
    });
    showEvents(this.#client);
  }

  get label(): string {
    const { database = '' } = this.#client;
    return this.#shard === undefined ? database : `${database}@${this.#shard}`;
  }

  get greeting(): string {
    const { database = '' } = this.#client;
    return this.#shard === undefined ? database : `shard ${this.#shard} of ${database}`;
  }

  get transaction(): string {
    return this.#client.getTransactionStatus() ?? 'I';
  }

  get broken(): Error | undefined {
    return this.#broken;
  }

  connect(): Promise<unknown> {
    return this.#client.connect();
  }

  async query(config: pg.QueryConfig): Promise<pg.QueryResult | pg.QueryResult[]> {
    try {
      return await this.#client.query(config);
    } catch (error) {
      await this.#untilIdle();
      throw error;
    }
  }

  async cancel(): Promise<void> {
    const helper = new pg.Client({
      connectionString: this.#url,
      connectionTimeoutMillis: HELPER_TIMEOUT_MS,
    });
    try {
      await helper.connect();
      const { processID } = this.#client as unknown as { processID: number };
      await helper.query('select pg_cancel_backend($1)', [processID]);
    } finally {
      await helper.end().catch(() => {});
    }
  }

  end(): Promise<void> {
    return this.#client.end();
  }

  /** An error is told before the server says in which state the transaction is left. */
  async #untilIdle(): Promise<void> {
    const { readyForQuery } = this.#client as unknown as { readyForQuery: boolean };
    if (readyForQuery || this.#broken) return;
    await new Promise<void>(resolve => {
      this.#client.once('drain', () => resolve());
      this.#client.once('end', () => resolve());
    });
  }
}
