/**
 * The smallest application that can be witnessed: a table of numbers behind two routes, written as a
 * user would write it with Banyan's pool.
 */
import type pg from 'pg';
import { HttpClient } from './http-client.ts';
import type { Subject } from './witness.ts';

export const LEDGER_APP = {
  'package.json': JSON.stringify({ name: 'ledger', type: 'module' }),
  'migrations/001-entries.sql': `
    create table entries (
      id bigint generated always as identity primary key,
      session int not null,
      value int not null
    );
    create index on entries (session, value);`,
  'server.ts': `
    import { createServer } from 'node:http';
    import { createPool, lifecycle } from 'banyan';

    const pool = createPool({ max: 10 });
    const server = createServer(async (req, res) => {
      const session = Number(req.url!.slice(1));
      try {
        if (req.method === 'POST') {
          let text = '';
          for await (const chunk of req) text += chunk;
          await pool.query('insert into entries (session, value) values ($1, $2)', [session, JSON.parse(text).value]);
          res.writeHead(201).end();
        } else {
          const { rows } = await pool.query('select value from entries where session = $1 order by value desc limit 50', [session]);
          res.end(JSON.stringify(rows.map(row => row.value)));
        }
      } catch (error) {
        res.writeHead(500).end(JSON.stringify(String(error)));
      }
    });
    lifecycle(server, { pool });
    server.listen(Number(process.env.PORT), process.env.HOST);
  `,
};

export class LedgerSubject implements Subject {
  readonly #clients: HttpClient[];
  readonly #pool: pg.Pool;

  /** @param pool straight to the database, for the recount */
  constructor(address: string, pool: pg.Pool, sessions = 4) {
    this.#clients = Array.from({ length: sessions }, () => new HttpClient(address));
    this.#pool = pool;
  }

  async write(session: number, value: number, signal: AbortSignal): Promise<void> {
    await this.#clients[session]!.send('POST', `/${session}`, { value }, signal);
  }

  async read(session: number, signal: AbortSignal): Promise<number[]> {
    const { body } = await this.#clients[session]!.send('GET', `/${session}`, undefined, signal);
    return body as number[];
  }

  async recount(session: number): Promise<number[]> {
    const { rows } = await this.#pool.query<{ value: number }>(
      'select value from entries where session = $1',
      [session],
    );
    return rows.map(({ value }) => value);
  }
}
