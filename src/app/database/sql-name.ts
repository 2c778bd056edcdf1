import { escapeIdentifier } from 'pg';

/** A table as SQL names it, whatever its name is. */
export function sqlName(schema: string, table: string): string {
  return `${escapeIdentifier(schema)}.${escapeIdentifier(table)}`;
}
