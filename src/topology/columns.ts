/** Names of tables and columns as a topology writes them. Pure. */
import type { CopiedColumn } from './complete.ts';

const DEFAULT_SCHEMA = 'public';

/** `users` → `public.users` */
export function qualifyTable(name: string): string {
  return name.includes('.') ? name : `${DEFAULT_SCHEMA}.${name}`;
}

/** `users.email` → `public.users.email` */
export function qualifyColumn(name: string): string {
  return name.split('.').length > 2 ? name : `${DEFAULT_SCHEMA}.${name}`;
}

/** `users.name via author_id`; undefined for anything else. */
export function parseCopy(text: string): CopiedColumn | undefined {
  const [, from, via] = /^\s*(\w+(?:\.\w+){1,2})\s+via\s+(\w+)\s*$/.exec(text) ?? [];
  return from && via ? { from: qualifyColumn(from), via } : undefined;
}
