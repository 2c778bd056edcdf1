/**
 * What PostgreSQL's own functions do beyond what their volatility says.
 *
 * `pg_proc.provolatile` tells whether an answer can change within a statement. That is neither whether the
 * function writes (`random()` is volatile, and does nothing) nor whether each server answers alike
 * (`txid_current()` and `inet_server_addr()` are stable). A user's function is judged by its volatility
 * alone; for those of `pg_catalog` these tables know better.
 *
 * Tried, not remembered: `test/app/database/route/standby.test.ts` calls every function of
 * `pg_catalog` that needs no arguments on a standby.
 */
import type { Pin, ReasonKind } from './facts.ts';

export interface Builtin {
  readonly kind: ReasonKind;
  /** Completes "calls nextval, which …". */
  readonly does: string;
  readonly pins?: Pin;
}

/** Volatile, and yet a standby's answer is as good as the primary's. */
export const HARMLESS: readonly string[] = [
  'clock_timestamp',
  'current_query',
  'gen_random_uuid',
  'pg_partition_ancestors',
  'pg_partition_tree',
  'pg_sleep',
  'pg_sleep_for',
  'pg_sleep_until',
  'random',
  'random_normal',
  'timeofday',
  'uuidv4',
  'uuidv7',
];

const SESSION_LOCK: Builtin = {
  kind: 'advisory-lock',
  does: 'takes or gives back a lock of the session',
  pins: 'session',
};
const TRANSACTION_LOCK: Builtin = {
  kind: 'advisory-lock',
  does: 'takes a lock that lasts as long as the transaction',
  pins: 'transaction',
};
const SESSION: Builtin = { kind: 'asks-session', does: 'tells of its own session' };
const SERVER: Builtin = { kind: 'server-state', does: 'tells of the server that it runs on' };
const TRANSACTION_ID: Builtin = {
  kind: 'transaction-id',
  does: 'deals with transaction ids or snapshots, which a standby does not give',
};
const LARGE_OBJECT: Builtin = { kind: 'writes-rows', does: 'works on large objects' };

const group = (what: Builtin, ...names: string[]): [string, Builtin][] =>
  names.map(name => [name, what]);

const BY_NAME = new Map<string, Builtin>([
  ['nextval', { kind: 'sequence', does: 'advances a sequence' }],
  ['setval', { kind: 'sequence', does: 'sets a sequence' }],
  ...group(
    { kind: 'sequence', does: 'tells what nextval gave this session' },
    'currval',
    'lastval',
  ),
  ...group({ kind: 'sequence', does: "tells a sequence's position" }, 'pg_sequence_last_value'),
  ...group({ kind: 'notification', does: 'notifies' }, 'pg_notify'),
  [
    'set_config',
    { kind: 'session-state', does: 'changes a setting of the session', pins: 'session' },
  ],
  ['setseed', { kind: 'session-state', does: 'decides what random() gives next', pins: 'session' }],
  ...group(
    SESSION_LOCK,
    'pg_advisory_lock',
    'pg_advisory_lock_shared',
    'pg_try_advisory_lock',
    'pg_try_advisory_lock_shared',
    'pg_advisory_unlock',
    'pg_advisory_unlock_shared',
    'pg_advisory_unlock_all',
  ),
  ...group(
    TRANSACTION_LOCK,
    'pg_advisory_xact_lock',
    'pg_advisory_xact_lock_shared',
    'pg_try_advisory_xact_lock',
    'pg_try_advisory_xact_lock_shared',
  ),
  ...group(
    SESSION,
    'current_setting',
    'inet_client_addr',
    'inet_client_port',
    'pg_backend_pid',
    'pg_cursor',
    'pg_listening_channels',
    'pg_prepared_statement',
  ),
  ...group(
    SERVER,
    'inet_server_addr',
    'inet_server_port',
    'pg_available_extension_versions',
    'pg_available_extensions',
    'pg_conf_load_time',
    'pg_config',
    'pg_get_replication_slots',
    'pg_is_in_recovery',
    'pg_lock_status',
    'pg_blocking_pids',
    'pg_postmaster_start_time',
    'pg_prepared_xact',
    'pg_show_all_settings',
    'pg_walfile_name',
    'pg_walfile_name_offset',
  ),
  ...group(
    TRANSACTION_ID,
    'pg_current_snapshot',
    'pg_current_xact_id',
    'pg_current_xact_id_if_assigned',
    'pg_last_committed_xact',
    'pg_xact_commit_timestamp',
    'pg_xact_status',
    'txid_current',
    'txid_current_if_assigned',
    'txid_current_snapshot',
    'txid_status',
  ),
  [
    'pg_export_snapshot',
    {
      kind: 'transaction-id',
      does: 'lends its snapshot, for as long as the transaction lasts',
      pins: 'transaction',
    },
  ],
  ...group(LARGE_OBJECT, 'loread', 'lowrite'),
]);

/** Families whose members come with each version. PostgreSQL's regular expressions read them as well. */
const PATTERNS: readonly [RegExp, Builtin][] = [
  // Those that reset count as volatile functions: they change what the server has counted.
  [/^pg_stat_reset/, { kind: 'volatile-function', does: 'resets what the server has counted' }],
  [/^pg_stat_/, SERVER],
  [/^pg_control_/, SERVER],
  [/^pg_ls_/, SERVER],
  [/^pg_last_/, SERVER],
  [/^pg_current_(wal|logfile)/, SERVER],
  [/^pg_get_(wal|shmem|backend|aios)/, SERVER],
  [/^pg_(database|tablespace|relation|table|indexes|total_relation)_size$/, SERVER],
  [/^lo_/, LARGE_OBJECT],
];

/** What a function of `pg_catalog` does beyond its volatility; undefined for most. */
export function builtin(name: string): Builtin | undefined {
  return BY_NAME.get(name) ?? PATTERNS.find(([pattern]) => pattern.test(name))?.[1];
}

/**
 * For the catalog's query: which of `pg_catalog`'s functions make a view or a policy that calls them
 * unfit for a standby, apart from the volatile ones. A policy that asks `current_setting` is the usual way
 * to tell tenants apart: whoever has set it is pinned to where he set it, so it does no harm.
 */
export const NOT_ALIKE = {
  names: [...BY_NAME.keys()].filter(name => name !== 'current_setting'),
  pattern: PATTERNS.map(([pattern]) => pattern.source).join('|'),
};
