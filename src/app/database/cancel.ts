/**
 * Ids of server processes that stay apart between servers, so that whoever cancels a statement by its
 * connection's `processID` reaches the server that runs it, and never another one's process.
 *
 * On the primary an id is the server's own. On a replica it is that plus a multiple of what no server
 * reaches (Linux: `PID_MAX_LIMIT`, 2^22): PostgreSQL knows no such process, so an id that comes to a server by
 * another way than this pool cancels nothing.
 */
import type { MemberState } from './members/member.ts';
import type { Statement } from './statement.ts';

const PIDS = 2 ** 22;
/** More would not fit into PostgreSQL's integers. */
const SLOTS = 2 ** 9 - 1;

/** @param member undefined: the primary */
export function processIdAt(member: MemberState | undefined, pid: number): number {
  return member ? pid + (1 + (member.slot % SLOTS)) * PIDS : pid;
}

const CANCELS = /\bpg_(?:cancel|terminate)_backend\s*\(\s*(?:\$(\d+)|(\d+))/i;

/** What the router offers here. */
interface Members {
  readonly monitor: { readonly members: readonly MemberState[] };
  runAt(member: MemberState, statement: Statement): void;
}

/**
 * Sends a statement that cancels a process of a replica there.
 * @returns false when it is no such statement, and nothing was done
 */
export function routeCancellation(text: string, statement: Statement, members: Members): boolean {
  const [, parameter, literal] = CANCELS.exec(text) ?? [];
  if (parameter === undefined && literal === undefined) return false;
  const { config } = statement;
  const values =
    statement.values ?? (typeof config === 'string' ? undefined : (config.values as unknown[]));
  const id = Number(literal ?? values?.[Number(parameter) - 1]);
  const slot = Math.floor(id / PIDS) - 1;
  const member = members.monitor.members.find(one => one.slot % SLOTS === slot);
  if (!(slot >= 0) || !member) return false;
  const pid = id % PIDS;
  const ownText = literal === undefined ? text : text.replace(literal, String(pid));
  const ownValues = values?.map((value, index) => (index === Number(parameter) - 1 ? pid : value));
  members.runAt(member, {
    ...statement,
    config: typeof config === 'string' ? ownText : { ...config, text: ownText },
    values: ownValues,
  });
  return true;
}
