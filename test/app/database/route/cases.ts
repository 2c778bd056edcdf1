/** Reads cases.txt: what is expected of each statement. */
import { readFileSync } from 'node:fs';
import type { Access, Pin, StatementFacts } from '../../../../src/app/database/route/facts.ts';

export interface Case {
  line: number;
  text: string;
  access: Access;
  /** Kinds of its reasons. */
  kinds: string[];
  pins: Pin;
  transaction: string[];
  /** Undefined: not said. */
  tables: string[] | undefined;
  repeatable: boolean | undefined;
  opaque: boolean;
  changesCatalog: boolean;
  /** The least version that knows it. */
  since: number;
  /** It cannot run within a transaction. */
  alone: boolean;
  /** It fails on the primary as well. */
  fails: boolean;
}

export const SCHEMA = readFileSync(new URL('schema.sql', import.meta.url), 'utf8');

const FLAGS = new Set(['again', 'once', 'opaque', 'schema', 'alone', 'fails']);

export const CASES: Case[] = readFileSync(new URL('cases.txt', import.meta.url), 'utf8')
  .split('\n')
  .flatMap((source, index) => (/^(read|write) /.test(source) ? parse(source, index + 1) : []));

function parse(source: string, line: number): Case {
  const middle = source.indexOf(' | ');
  if (middle < 0) throw new Error(`cases.txt:${line} has no statement`);
  const [access, ...words] = source.slice(0, middle).trim().split(/\s+/);
  const kinds: string[] = [];
  const flags = new Set<string>();
  const options = new Map<string, string>();
  for (const word of words) {
    const [name, value] = word.split('=');
    if (value !== undefined) options.set(name!, value);
    else if (FLAGS.has(word)) flags.add(word);
    else kinds.push(word);
  }
  const list = (name: string) => options.get(name)?.split(',').filter(Boolean);
  const roles = ['read', 'written', 'defined'].filter(role => options.has(role));
  return {
    line,
    text: source.slice(middle + 3),
    access: access as Access,
    kinds: kinds.sort(),
    pins: (options.get('pin') ?? 'nothing') as Pin,
    transaction: list('tx')?.map(effect => effect.replace('_', ' ')) ?? [],
    tables: roles.length
      ? roles.flatMap(role => list(role)!.map(name => `${role} ${name}`)).sort()
      : undefined,
    repeatable: flags.has('once') ? false : flags.has('again') || access === 'read' || undefined,
    opaque: flags.has('opaque'),
    changesCatalog: flags.has('schema'),
    since: Number(options.get('new') ?? 15),
    alone: flags.has('alone'),
    fails: flags.has('fails'),
  };
}

/** Facts in the form of a case, without what the case does not say. */
export function asCase(facts: StatementFacts, expected: Case): Case {
  return {
    ...expected,
    access: facts.access,
    kinds: [...new Set(facts.reasons.map(({ kind }) => kind))].sort(),
    pins: facts.pins,
    transaction: facts.transaction.map(({ kind }) => kind),
    tables: expected.tables
      ? facts.tables
          .map(
            ({ schema, name, role }) =>
              `${role} ${schema === undefined ? '' : `${schema}.`}${name}`,
          )
          .sort()
      : undefined,
    repeatable: expected.repeatable === undefined ? undefined : facts.repeatable,
    opaque: facts.opaque,
    changesCatalog: facts.changesCatalog,
  };
}
