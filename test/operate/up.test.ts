import { expect, test } from 'vitest';
import { deployFiles } from '../support/deployment.ts';

/** The least that an existing application is: it listens on PORT and reads DATABASE_URL. */
const PLAIN_APP = {
  'package.json': JSON.stringify({ name: 'plain', type: 'module' }),
  'server.js': `
    import { createServer } from 'node:http';
    import pg from 'pg';
    const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
    createServer(async (req, res) => {
      const { rows } = await pool.query('select current_database() as name');
      res.end(JSON.stringify(rows[0]));
    }).listen(process.env.PORT);
  `,
};

test('an existing app that listens on PORT and reads DATABASE_URL runs with no change', async () => {
  await using site = await deployFiles(PLAIN_APP);
  const response = await fetch(site.address);
  expect(await response.json()).toEqual({ name: 'plain' });
});
