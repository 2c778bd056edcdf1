/**
 * Checks a topology at run time and reports every mistake at once, before anything is touched.
 *
 * What is right says the schema (`schema/`). Keys that it does not know are found here: valibot's `strictObject` tells of
 * the first alone.
 */
import { distance } from 'fastest-levenshtein';
import * as v from 'valibot';
import { BanyanError } from '../errors.ts';
import { topologySchema } from './schema/topology.ts';
import { isPlainObject, ofObject } from './schema/values.ts';
import { show } from './show.ts';
import type { Topology } from './topology.ts';

/** One mistake in a topology. */
export interface TopologyMistake {
  /** Dotted path of the key: `web.port`. */
  path: string;
  /** The value found there, as text. */
  value: string;
  /** What would be right. */
  allowed: string;
  /** The path of the known key that was probably meant, for an unknown one. */
  nearest?: string;
}

export class InvalidTopology extends BanyanError {
  readonly mistakes: TopologyMistake[];

  constructor(file: string, mistakes: TopologyMistake[]) {
    const lines = mistakes.map(mistake => `  ${describe(mistake)}`);
    super('INVALID_TOPOLOGY', {
      what: `${mistakes.length === 1 ? 'One mistake' : `${mistakes.length} mistakes`} in the topology:\n${lines.join('\n')}\n`,
      where: file,
      remedy: 'Nothing was changed. Correct the file and run the command again',
    });
    this.mistakes = mistakes;
  }

  override toJSON() {
    return { ...super.toJSON(), mistakes: this.mistakes };
  }
}

/**
 * @param file where the topology was read, for the error
 * @throws InvalidTopology with every mistake
 */
export function validateTopology(input: unknown, file: string): Topology {
  let result: v.SafeParseResult<typeof topologySchema>;
  let unknown: TopologyMistake[];
  try {
    unknown = unknownKeys(input);
    result = v.safeParse(topologySchema, input);
  } catch (error) {
    // A getter of the user's object that throws.
    const allowed = `values that can be read (${(error as Error).message})`;
    throw new InvalidTopology(file, [{ path: WHOLE, value: 'an object', allowed }]);
  }
  const found = [...unknown, ...(result.issues ?? []).map(toMistake)];
  if (result.success && found.length === 0) return result.output;
  const mistakes = new Map<string, TopologyMistake>();
  // Of several rules that a value breaks the first is told: the others follow from it.
  for (const mistake of found) {
    if (!mistakes.has(mistake.path)) mistakes.set(mistake.path, mistake);
  }
  throw new InvalidTopology(file, [...mistakes.values()]);
}

const WHOLE = '(the whole)';

function toMistake(issue: v.BaseIssue<unknown>): TopologyMistake {
  const keys = (issue.path ?? []).map(({ key }) => String(key));
  const value = issue.path ? issue.path.at(-1)?.value : issue.input;
  return { path: keys.join('.') || WHOLE, value: show(keys, value), allowed: issue.message };
}

function unknownKeys(input: unknown, parent: string[] = []): TopologyMistake[] {
  const entries = entriesAt(parent);
  if (!entries || !isPlainObject(input)) return [];
  const known = Object.keys(entries);
  return Object.entries(input as object).flatMap(([key, value]) => {
    const keys = [...parent, key];
    if (Object.hasOwn(entries, key)) return unknownKeys(value, keys);
    const nearest = nearestKey(key, parent, known);
    return {
      path: keys.join('.'),
      value: show(keys, value),
      allowed: `no such key; known here: ${known.join(', ')}`,
      ...(nearest ? { nearest } : {}),
    };
  });
}

type Entries = Record<string, unknown>;

/** The keys that the schema knows in the object at a path, with their schemas; undefined for no object. */
function entriesAt(keys: string[]): Entries | undefined {
  return keys.reduce<Entries | undefined>(
    (entries, key) => entriesOf(entries?.[key]),
    entriesOf(topologySchema),
  );
}

/** Through `optional` and `pipe`, in which the object lies. */
function entriesOf(schema: unknown): Entries | undefined {
  if (typeof schema !== 'object' || schema === null) return undefined;
  const ofAnObject = ofObject(schema);
  if (ofAnObject) return entriesOf(ofAnObject);
  if ('entries' in schema) return schema.entries as Entries;
  if ('wrapped' in schema) return entriesOf(schema.wrapped);
  if (!('pipe' in schema)) return undefined;
  const [first, ...rest] = schema.pipe as unknown[];
  // The first of a pipe is the pipe itself, without its steps.
  const steps = [...rest, (first as { pipe?: unknown }).pipe ? first : undefined];
  return steps.map(entriesOf).find(entries => entries !== undefined);
}

/** Whole paths of all keys that the schema knows. */
function allPaths(entries = entriesOf(topologySchema)!, parent: string[] = []): string[][] {
  return Object.entries(entries).flatMap(([key, schema]) => {
    const path = [...parent, key];
    const below = entriesOf(schema);
    return below ? [path, ...allPaths(below, path)] : [path];
  });
}

/**
 * The path of the key that was probably meant: spelt alike in the same place, or the same in another.
 * A typing slip changes about a third of a word; beyond that a guess would mislead.
 */
function nearestKey(key: string, parent: string[], known: string[]): string | undefined {
  const word = key.toLowerCase();
  const [nearest] = known
    .map(name => ({ name, changes: changesBetween(word, name.toLowerCase()) }))
    .filter(({ changes }) => changes <= Math.max(1, Math.floor(word.length / 3)))
    .sort((a, b) => a.changes - b.changes);
  if (nearest) return [...parent, nearest.name].join('.');
  return allPaths()
    .find(path => path.at(-1)!.toLowerCase() === word)
    ?.join('.');
}

/** Letters that change places are one slip, not two. */
function changesBetween(one: string, other: string): number {
  const sorted = (word: string) => [...word].sort().join('');
  return one !== other && sorted(one) === sorted(other) ? 1 : distance(one, other);
}

function describe({ path, value, allowed, nearest }: TopologyMistake): string {
  const hint = nearest ? ` Did you mean \`${nearest}\`?` : '';
  const expected = allowed.startsWith('no such key') ? allowed : `expected ${allowed}`;
  return `${path} = ${value}: ${expected}.${hint}`;
}
