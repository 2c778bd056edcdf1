/** A plan in words: for EXPLAIN, for the log, and for the tests' list of cases. */
import type { Action, Merge, SortKey, StatementPlan, Target } from './plan.ts';
import type { Pin, ValueSource } from './values.ts';

/** @returns one line for each step */
export function describePlan(plan: StatementPlan): string[] {
  return describeAction(plan.action);
}

export function describeAction(action: Action): string[] {
  switch (action.kind) {
    case 'whole':
      return [where(action.target)];
    case 'scatter':
      return [where(action.target), `send: ${action.partial.text}`, ...describeMerge(action.merge)];
    case 'write': {
      const how = action.isCopied ? ', copied' : '';
      const alone = action.isAlone ? ', one after the other' : '';
      const computed = action.computed
        ? [`first: ${action.computed.values.query.text}`, `send: ${action.computed.statement.text}`]
        : [];
      return [`write ${where(action.target)}${how}${alone}`, ...computed];
    }
    case 'insert': {
      const keys = action.keys.map(sourceText).join(', ');
      const computed = action.computed ? [`first: ${action.computed.query.text}`] : [];
      const whole = action.write(undefined);
      return [`insert by ${keys}`, ...computed, ...(whole ? [`send: ${whole.text}`] : [])];
    }
    case 'copied insert':
      return [`insert on the first shard: ${action.first.text}`, `copy: ${action.copy}`];
    case 'move':
      return [
        `select: ${action.query.text}`,
        `insert by column ${action.keyAt + 1}: ${action.insert.text}`,
      ];
    case 'copy in':
      return [
        action.key
          ? `copy in ${action.format.kind}, split by column ${action.key.at + 1}`
          : `copy in ${action.format.kind}, to each shard`,
      ];
    case 'copy out':
      return [`copy out ${action.format.kind}, ${where(action.target)}`];
    case 'explained':
      return ['plan in words', ...describeAction(action.of)];
    case 'staged':
      return [
        ...action.stages.map(({ text }, i) => `${action.prefix}${i}: ${text}`),
        `then: ${action.rest.text}`,
      ];
  }
}

function where(target: Target): string {
  switch (target.kind) {
    case 'first':
      return 'first shard';
    case 'any':
      return 'any shard';
    case 'all':
      return 'all shards';
    case 'shard':
      return `shard ${target.shard}`;
    case 'keys': {
      const parts = target.parts.map(pins => pins.map(pinText).join(' and ') || 'all');
      if (parts.every(part => part === 'all')) return 'all shards';
      return `shards of ${parts.join(' or ')}`;
    }
  }
}

function pinText({ sources }: Pin): string {
  const [first] = sources;
  return sources.length === 1 && first
    ? sourceText(first)
    : `(${sources.map(sourceText).join(', ')})`;
}

function sourceText(source: ValueSource): string {
  if (source.kind === 'constant') return source.text === null ? 'NULL' : source.text;
  if (source.number >= 80_000) return `computed ${source.number - 79_999}`;
  return source.kind === 'elements' ? `any $${source.number}` : `$${source.number}`;
}

/** @returns the merge, and with what it is filled in */
export function describeMerge(merge: Merge): string[] {
  if (merge.kind === 'query') {
    const slots = merge.slots.map(
      ({ kind, name, columns }, i) =>
        `s${i} = ${name ?? kind}(${columns.map(c => `c${c}`).join(', ')})`,
    );
    return [`merge: ${merge.final.text}`, `with: ${slots.join('; ')}`];
  }
  const words: string[] = [];
  if (merge.distinct.kind === 'all') words.push('distinct');
  if (merge.distinct.kind === 'on') {
    words.push(`distinct on (${merge.distinct.columns.map(placeText).join(', ')})`);
  }
  if (merge.keys.length > 0) words.push(`sorted by ${merge.keys.map(keyText).join(', ')}`);
  const { count, offset } = merge.limits;
  if (count) words.push(`limit ${sourceText(count)}`);
  if (offset) words.push(`offset ${sourceText(offset)}`);
  if (merge.hidden > 0) words.push(`without the last ${merge.hidden}`);
  return [`merge: ${words.join(', ') || 'one after the other'}`];
}

function placeText(column: SortKey['column']): string {
  if ('at' in column) return String(column.at + 1);
  return 'hidden' in column ? `hidden ${column.hidden + 1}` : column.name;
}

function keyText({ column, isDescending, nullsFirst }: SortKey): string {
  const nulls = nullsFirst === isDescending ? '' : ` nulls ${nullsFirst ? 'first' : 'last'}`;
  return `${placeText(column)}${isDescending ? ' desc' : ''}${nulls}`;
}
