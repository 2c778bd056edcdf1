/** The tables that the tests of the planner use, and where they lie. */
import { readFileSync } from 'node:fs';
import type { Tables } from '../../../support/shards.ts';

export const SCHEMA = readFileSync(new URL('schema.sql', import.meta.url), 'utf8');

export const TABLES: Tables = {
  'public.users': { kind: 'sharded', key: 'id' },
  'public.posts': { kind: 'sharded', key: 'user_id' },
  'public.comments': { kind: 'sharded', key: 'user_id' },
  'public.likes': { kind: 'sharded', key: 'post_id' },
  'public.accounts': { kind: 'sharded', key: 'owner' },
  'public.devices': { kind: 'sharded', key: 'id' },
  'public.tickets': { kind: 'sharded', key: 'id' },
  'public.countries': { kind: 'reference' },
  'public.tags': { kind: 'reference' },
};
