/** An EXPLAIN, taken apart: what stands before the statement, and the statement as it is written. Pure. */
import type { Node } from 'libpg-query';
import { isAnalyze } from '../../route/classify.ts';
import { sameTree } from '../plan/tree.ts';
import { LEADING } from '../session-words.ts';

export interface ExplainText {
  /** `explain (analyze, buffers) ` */
  readonly prefix: string;
  /** What is explained, as it is written. */
  readonly statement: string;
  /** The statement is run. */
  readonly runs: boolean;
  /** `text` is for people; the others for programs. */
  readonly isForPeople: boolean;
}

const WORD = /^explain\b/i;
const OPTION =
  'analy[sz]e|verbose|costs|settings|generic_plan|buffers|serialize|wal|timing|summary|memory|format';
const PREFIX = new RegExp(
  `^explain\\b\\s*(?:\\(\\s*(?:${OPTION})\\b[^()]*\\)\\s*|(?:analy[sz]e|verbose)\\b\\s*)*`,
  'i',
);

/** Cheap: every statement is asked for it. */
export function isExplain(text: string): boolean {
  return WORD.test(text) || WORD.test(text.replace(LEADING, ''));
}

/**
 * @param parse gives the trees of a text's statements
 * @returns undefined for what is no single EXPLAIN, or is written in a way that is not known here
 */
export function readExplain(
  text: string,
  parse: (text: string) => Node[] | undefined,
): ExplainText | undefined {
  const [node, ...others] = parse(text) ?? [];
  if (!node || others.length > 0 || !('ExplainStmt' in node)) return undefined;
  const { query, options = [] } = node.ExplainStmt;
  const leading = LEADING.exec(text)?.[0] ?? '';
  const [prefix = ''] = PREFIX.exec(text.slice(leading.length)) ?? [];
  const statement = text.slice(leading.length + prefix.length);
  const [alone, ...more] = parse(statement) ?? [];
  // Comments, or options of a newer PostgreSQL, between the two.
  if (!alone || more.length > 0 || !sameTree(alone, query)) return undefined;
  const format = options.find(
    option => 'DefElem' in option && option.DefElem.defname === 'format',
  ) as { DefElem: { arg?: { String?: { sval?: string } } } } | undefined;
  const name = format?.DefElem.arg?.String?.sval ?? 'text';
  return { prefix, statement, runs: isAnalyze(options), isForPeople: /^text$/i.test(name) };
}
