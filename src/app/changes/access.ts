/** How a reader gets in, and what is to be done when it does not. */
import pg from 'pg';
import { BanyanError, hasCode } from '../../errors.ts';
import { MayNotReadLog, NoSlotLeft, WalLevelTooLow } from './errors.ts';
import { NoPrimary } from './primary.ts';

/** A reader waits as long as it takes: for transactions to end, or for the next one to come. */
export function withoutLimits(config: pg.ClientConfig): pg.ClientConfig {
  const {
    query_timeout: _query,
    statement_timeout: _statement,
    lock_timeout: _lock,
    idle_in_transaction_session_timeout: _idle,
    connectionString,
    ...rest
  } = config;
  // A connection string would win over host and port.
  const parsed = connectionString ? new pg.Client({ connectionString }) : undefined;
  return {
    ...(parsed && {
      user: parsed.user,
      password: parsed.password,
      database: parsed.database,
      ssl: parsed.ssl,
    }),
    ...rest,
    keepAlive: true,
    application_name: rest.application_name ?? 'banyan changes',
  };
}

export async function checkLevel(client: pg.Client, where: string): Promise<void> {
  const { rows } = await client.query<{ level: string }>(
    `select current_setting('wal_level') as level`,
  );
  const { level } = rows[0]!;
  if (level !== 'logical') throw new WalLevelTooLow(where, level);
}

/** The server could not decode its log, or we could not read what it sent. */
export function isUnreadable(error: unknown): boolean {
  return error instanceof RangeError || hasCode(error, 'XX000', 'XX001', '58P01', '42704', '55000');
}

/** @returns what to throw when waiting would not mend it */
export function explain(error: unknown, where: string): Error | undefined {
  if (error instanceof BanyanError) return error;
  if (error instanceof NoPrimary) {
    const { cause } = error;
    return hasCode(cause, '28P01', '28000', '3D000') ? new MayNotReadLog(where, cause) : undefined;
  }
  if (hasCode(error, '42501')) return new MayNotReadLog(where, error);
  if (hasCode(error, '53400')) return new NoSlotLeft(where, error);
  return undefined;
}
