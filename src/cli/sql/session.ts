/** Statements that are run on a connection, and their results as they are shown. */

import pg from 'pg';
import { BanyanError } from '../../errors.ts';
import type { OnShard, SqlConnection } from './connection.ts';
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
    const { message, detail, hint, position, code, onShard } = cause as pg.DatabaseError & OnShard;
    super('STATEMENT_FAILED', {
      what: [
        code ? `${message} (${code})` : message,
        detail && `\n  ${detail}`,
        position && `\n${pointAt(statement, Number(position))}`,
      ]
        .filter(Boolean)
        .join(''),
      ...(onShard && !position ? { where: `shard ${onShard}` } : {}),
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
  readonly #connection: SqlConnection;

  constructor(connection: SqlConnection) {
    this.#connection = connection;
  }

  connect(): Promise<unknown> {
    return this.#connection.connect();
  }

  end(): Promise<void> {
    return this.#connection.end();
  }

  /** For the prompt. */
  get label(): string {
    return this.#connection.label;
  }

  get greeting(): string {
    return this.#connection.greeting;
  }

  /** `T` in a transaction, `E` in one that failed. */
  get transaction(): string {
    return this.#connection.transaction;
  }

  /** The connection was lost. */
  get broken(): Error | undefined {
    return this.#connection.broken;
  }

  /** @throws StatementFailed; what is refused over shards */
  async run(statement: string, parameters: string[] = []): Promise<Result[]> {
    try {
      const results = (await this.#connection.query({
        text: statement,
        values: parameters,
        rowMode: 'array',
        types: { getTypeParser: () => (value: string | Buffer) => String(value) },
      } as pg.QueryArrayConfig as never)) as unknown as
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
      throw failureOf(statement, error);
    }
  }

  /** Rows as objects, for `--json`. @throws as `run` */
  async rows(statement: string): Promise<unknown[]> {
    try {
      const result = await this.#connection.query({ text: statement });
      return (Array.isArray(result) ? result.at(-1)?.rows : result.rows) ?? [];
    } catch (error) {
      throw failureOf(statement, error);
    }
  }

  cancel(): Promise<void> {
    return this.#connection.cancel();
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

/** An error of ours says itself what it has to say. */
function failureOf(statement: string, error: unknown): BanyanError {
  return error instanceof BanyanError ? error : new StatementFailed(statement, error as Error);
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
