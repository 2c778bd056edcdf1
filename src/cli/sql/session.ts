/** One connection on which statements are run and their results shown. */

import pg from 'pg';
import pc from 'picocolors';
import { BanyanError } from '../../errors.ts';
import { type Column, renderExpanded, renderTable, widthOf } from './table.ts';

const NUMBER_TYPES = new Set<number>([
  pg.types.builtins.INT2,
  pg.types.builtins.INT4,
  pg.types.builtins.INT8,
  pg.types.builtins.FLOAT4,
  pg.types.builtins.FLOAT8,
  pg.types.builtins.NUMERIC,
  pg.types.builtins.OID,
]);

export class StatementFailed extends BanyanError {
  constructor(statement: string, cause: Error) {
    const { message, detail, hint, position, code } = cause as pg.DatabaseError;
    super('STATEMENT_FAILED', {
      what: [
        code ? `${message} (${code})` : message,
        detail && `\n  ${detail}`,
        position && `\n${pointAt(statement, Number(position))}`,
      ]
        .filter(Boolean)
        .join(''),
      ...(hint ? { remedy: hint } : {}),
      cause,
    });
  }
}

export interface Result {
  /** `SELECT 3`, `INSERT 0 1`. */
  command: string;
  columns: Column[];
  /** As PostgreSQL writes them. */
  rows: (string | null)[][];
}

export class SqlSession {
  expanded = false;
  readonly #url: string;
  readonly #client: pg.Client;
  #broken: Error | undefined;

  constructor(url: string) {
    this.#url = url;
    this.#client = new pg.Client({ connectionString: url, application_name: 'banyan sql' });
    this.#client.on('error', error => {
      this.#broken = error;
    });
    this.#client.on('notice', ({ severity, message }) => {
      process.stderr.write(`${pc.yellow(severity ?? 'NOTICE')}: ${message}\n`);
    });
    this.#client.on('notification', ({ channel, payload }) => {
      process.stderr.write(`${pc.cyan(`notification on ${channel}`)}: ${payload ?? ''}\n`);
    });
  }

  connect(): Promise<unknown> {
    return this.#client.connect();
  }

  end(): Promise<void> {
    return this.#client.end();
  }

  /** The name of the database, for the prompt. */
  get database(): string {
    return this.#client.database ?? '';
  }

  /** `T` in a transaction, `E` in one that failed. */
  get transaction(): string {
    return this.#client.getTransactionStatus() ?? 'I';
  }

  /** The connection was lost. */
  get broken(): Error | undefined {
    return this.#broken;
  }

  /** @throws StatementFailed */
  async run(statement: string, parameters: string[] = []): Promise<Result[]> {
    try {
      const results = (await this.#client.query({
        text: statement,
        values: parameters,
        rowMode: 'array',
        types: { getTypeParser: () => (value: string | Buffer) => String(value) },
      } as unknown as pg.QueryArrayConfig)) as unknown as
        | pg.QueryArrayResult<(string | null)[]>
        | pg.QueryArrayResult<(string | null)[]>[];
      return (Array.isArray(results) ? results : [results]).map(result => ({
        command: `${result.command ?? ''} ${result.rowCount ?? ''}`.trim(),
        columns: result.fields.map(({ name, dataTypeID }) => ({
          name,
          isNumber: NUMBER_TYPES.has(dataTypeID),
        })),
        rows: result.rows,
      }));
    } catch (error) {
      await this.#untilIdle();
      throw new StatementFailed(statement, error as Error);
    }
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

  /** Rows as objects, for `--json`. @throws StatementFailed */
  async rows(statement: string): Promise<unknown[]> {
    try {
      const result = await this.#client.query(statement);
      return result.rows;
    } catch (error) {
      throw new StatementFailed(statement, error as Error);
    }
  }

  /** Cancels the statement that runs, over a connection of its own, as PostgreSQL wants it. */
  async cancel(): Promise<void> {
    const helper = new pg.Client({ connectionString: this.#url, connectionTimeoutMillis: 5_000 });
    try {
      await helper.connect();
      const { processID } = this.#client as unknown as { processID: number };
      await helper.query('select pg_cancel_backend($1)', [processID]);
    } finally {
      await helper.end().catch(() => {});
    }
  }

  render({ command, columns, rows }: Result): string {
    if (columns.length === 0) return command;
    if (this.expanded) return renderExpanded(columns, rows);
    const table = renderTable(columns, rows);
    const width = process.stdout.columns || Number.POSITIVE_INFINITY;
    const isTooWide = widthOf(table.slice(0, table.indexOf('\n'))) > width;
    // A wide row that wraps can hardly be read; psql needs `\x auto` for this.
    return isTooWide && rows.length > 0 ? renderExpanded(columns, rows) : table;
  }
}

/** The line with the mistake, and a mark below it. @param position counted from 1 */
function pointAt(statement: string, position: number): string {
  const before = statement.slice(0, position - 1);
  const start = before.lastIndexOf('\n') + 1;
  const line = statement.slice(start).split('\n', 1)[0] ?? '';
  const number = before.split('\n').length;
  const label = `  line ${number}: `;
  return `${label}${line}\n${' '.repeat(label.length + position - 1 - start)}^`;
}
