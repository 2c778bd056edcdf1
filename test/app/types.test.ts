/**
 * What a user writes type-checks, in strict mode and with the frameworks' own types. `tsc` is the test;
 * running it shows that the types tell the truth.
 */
import { createServer } from 'node:http';
import { serve } from '@hono/node-server';
import { drizzle } from 'drizzle-orm/node-postgres';
import express from 'express';
import fastify from 'fastify';
import { Hono } from 'hono';
import { Kysely, PostgresDialect } from 'kysely';
import { expect, expectTypeOf, test } from 'vitest';
import {
  createAssets,
  createPool,
  createSessions,
  defineTopology,
  expressAssets,
  expressSessions,
  fastifyAssets,
  fastifySessions,
  honoAssets,
  honoSessions,
  lifecycle,
  type Session,
  type SessionVariables,
} from '../../src/index.ts';

interface Data {
  theme: 'dark' | 'light';
  visits: number;
}

// Nothing here connects.
const pool = createPool({ connectionString: 'postgres://user:password@127.0.0.1:1/x' });
const sessions = createSessions<Data>({ pool });
const assets = createAssets({ folder: 'public' });

test('Hono', async () => {
  const app = new Hono<{ Variables: SessionVariables<Data> }>();
  app.use(honoAssets(assets));
  app.use(honoSessions(sessions));
  app.use('/admin/*', honoSessions(sessions));
  app.get('/', c => {
    const session = c.get('session');
    expectTypeOf(session.get('theme')).toEqualTypeOf<'dark' | 'light' | undefined>();
    // @ts-expect-error a key that does not exist
    () => session.get('other');
    // @ts-expect-error a value of another type
    () => session.set('visits', 'many');
    return c.text(session.userId ?? 'nobody');
  });
  expect(await (await app.request('/')).text()).toBe('nobody');

  const server = serve({ fetch: app.fetch, port: 0 });
  await lifecycle(server).shutdown();
});

test('Fastify', async () => {
  const app = fastify();
  await app.register(fastifyAssets(assets));
  await app.register(fastifySessions(sessions));
  app.get('/', request => (request.session as unknown as Session<Data>).userId ?? 'nobody');
  expect((await app.inject('/')).body).toBe('nobody');
  await lifecycle(app.server).shutdown();
});

test('Express', async () => {
  const app = express();
  app.use(expressAssets(assets));
  app.use('/static', expressAssets(assets));
  app.use(expressSessions(sessions));
  await lifecycle(createServer(app)).shutdown();
});

test('the pool is what the SQL libraries take', () => {
  expectTypeOf(drizzle).toBeCallableWith(pool);
  new Kysely<object>({ dialect: new PostgresDialect({ pool }) });
});

test('a topology is checked while it is written', () => {
  defineTopology({ web: { port: 8080, env: { A: 'b' } } });
  // @ts-expect-error a key that does not exist
  defineTopology({ web: { prot: 8080 } });
  // @ts-expect-error a value of another type
  defineTopology({ web: { port: '8080' } });
});
