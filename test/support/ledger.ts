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
    create unique index on entries (session, value);`,
  'server.ts': `
    import { createServer } from 'node:http';
    import { createPool, lifecycle } from 'banyan';

    const pool = createPool({ max: 10 });
    const server = createServer(async (req, res) => {
      const session = Number(req.url!.split('/')[1]);
      try {
        if (req.method === 'POST') {
          let text = '';
          for await (const chunk of req) text += chunk;
          await pool.query('insert into entries (session, value) values ($1, $2)', [session, JSON.parse(text).value]);
          res.writeHead(201).end();
        } else if (req.method === 'PUT') {
          // May be sent twice: the second time changes nothing.
          const value = Number(req.url!.split('/')[2]);
          await pool.query('insert into entries (session, value) values ($1, $2) on conflict do nothing', [session, value]);
          res.writeHead(204).end();
        } else if (req.url === '/who') {
          res.end(process.env.BANYAN_UNIT + ' ' + process.pid);
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

export interface LedgerOptions {
  sessions?: number;
  /**
   * `POST` is sent once; `PUT` may be sent again by whoever stands in between, since it is idempotent.
   * Default: POST.
   */
  method?: 'POST' | 'PUT';
}

export class LedgerSubject implements Subject {
  readonly #clients: HttpClient[];
  readonly #pool: pg.Pool;
  readonly #method: 'POST' | 'PUT';

  /**
   * @param address one, or several that a client tries in turn, as it does with several in the DNS
   * @param pool straight to the database, for the recount
   */
  constructor(address: string | string[], pool: pg.Pool, options: LedgerOptions = {}) {
    const { sessions = 4, method = 'POST' } = options;
    this.#clients = Array.from({ length: sessions }, () => new HttpClient(address));
    this.#pool = pool;
    this.#method = method;
  }

  async write(session: number, value: number, signal: AbortSignal): Promise<void> {
    const client = this.#clients[session]!;
    if (this.#method === 'PUT') await client.send('PUT', `/${session}/${value}`, undefined, signal);
    else await client.send('POST', `/${session}`, { value }, signal);
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
