/** What is refused for the same reason in statements of several kinds. */
import type { Node } from 'libpg-query';
import type { ReasonKind, StatementFacts } from '../../route/facts.ts';
import type { Analysis } from './analysis.ts';
import { type PlacedTable, qualified } from './placement.ts';
import { ShardRefused } from './refused.ts';
import { stringOf, walk } from './tree.ts';

export function throwRefusals({ refusals }: Analysis): void {
  const [first] = refusals;
  if (first) throw new ShardRefused(first.what, first.remedy);
}

export function keyChange(table: PlacedTable): ShardRefused {
  return new ShardRefused(
    `The statement changes ${table.key}, the shard key of ${qualified(table)}, so its row would have to move to another shard`,
    'Insert the row with the new key and delete the old one, in one transaction',
  );
}

/** A write through a view, whose table may be on other shards. */
export function viewWrite(view: PlacedTable): ShardRefused {
  return new ShardRefused(
    `The statement writes through the view ${qualified(view)}, whose rows are on several shards`,
    'Write to its table',
  );
}

/** Functions that may do anything, each time. */
export function refuseVolatile({ reasons }: StatementFacts, why: string): void {
  for (const { kind, text } of reasons) {
    if (kind !== 'volatile-function' && kind !== 'sequence') continue;
    throw new ShardRefused(
      `The statement ${text}, and ${why}`,
      kind === 'sequence'
        ? 'Each shard has a sequence of its own: use nextId()'
        : 'Call it in a statement of its own, or mark it stable if it is',
    );
  }
}

/** What a function does that only one session, or one server, can do for all. */
const OF_ONE_SERVER = new Set<ReasonKind>([
  'sequence',
  'advisory-lock',
  'notification',
  'session-state',
  'server-state',
  'transaction-id',
  'server-file',
]);

/**
 * @param table that is on several shards
 * @param except what is seen to otherwise
 */
export function refuseServerFunctions(
  { reasons }: StatementFacts,
  table: string,
  except?: ReasonKind,
): void {
  for (const { kind, text } of reasons) {
    if (kind === except || !OF_ONE_SERVER.has(kind)) continue;
    throw new ShardRefused(
      `The statement ${text}, and is about ${table}, whose rows are on several shards`,
      kind === 'sequence'
        ? 'Each shard has a sequence of its own: use nextId(), or ask for the number in a statement of its own'
        : 'Do it in a statement of its own, which runs on the first shard',
    );
  }
}

const SYSTEM_COLUMNS = new Set(['ctid', 'tableoid', 'xmin', 'xmax', 'cmin', 'cmax']);

/** Where a row lies says nothing on another shard: other rows lie there. */
export function refuseSystemColumns(statement: unknown): void {
  walk(statement, (type, fields) => {
    if (type !== 'ColumnRef') return;
    const name = stringOf((fields as { fields?: Node[] }).fields?.at(-1)) ?? '';
    if (!SYSTEM_COLUMNS.has(name)) return;
    throw new ShardRefused(
      `The system column ${name} means another row on each shard`,
      'Use the primary key',
    );
  });
}
