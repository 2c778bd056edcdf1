/** The seeding command's options. */
import { parseArgs } from 'node:util';
import type { GraphSize } from './graph.ts';

export interface SeedOptions extends GraphSize {
  force: boolean;
}

interface NumberOption {
  name: string;
  meaning: string;
  fallback: number;
  most: number;
  whole?: true;
}

const NUMBERS: Record<keyof GraphSize, NumberOption> = {
  users: { name: 'users', meaning: 'people', fallback: 1_000, most: 10_000_000, whole: true },
  articlesPerUser: {
    name: 'articles-per-user',
    meaning: 'articles for each person, on average',
    fallback: 3,
    most: 100,
  },
  followsPerUser: {
    name: 'follows-per-user',
    meaning: 'people whom each follows, on average',
    fallback: 20,
    most: 500,
  },
  favoritesPerUser: {
    name: 'favorites-per-user',
    meaning: 'favourites of each, on average',
    fallback: 10,
    most: 500,
  },
  commentsPerUser: {
    name: 'comments-per-user',
    meaning: 'comments by each, on average',
    fallback: 4,
    most: 100,
  },
  tagsPerArticle: {
    name: 'tags-per-article',
    meaning: 'tags of each article, on average',
    fallback: 2,
    most: 8,
  },
  days: { name: 'days', meaning: 'that it is spread over', fallback: 730, most: 10_000 },
  seed: {
    name: 'seed',
    meaning: 'the same number gives the same people and texts',
    fallback: 1,
    most: Number.MAX_SAFE_INTEGER,
    whole: true,
  },
};

export class WrongOption extends Error {}

export function help(): string {
  const lines = Object.values(NUMBERS).map(
    ({ name, meaning, fallback }) =>
      `  --${`${name} N`.padEnd(24)}${meaning} (${fallback.toLocaleString('en')})`,
  );
  return `Fills Conduit with people who write, follow, like and comment.

  npm run seed -- [options]

${lines.join('\n')}
  ${'--force'.padEnd(26)}add to the people who are there
  ${'--help'.padEnd(26)}this text

It is written in one transaction: stopped half-way, it leaves nothing.`;
}

/**
 * @returns undefined when help is asked for
 * @throws WrongOption
 */
export function readOptions(args: string[]): SeedOptions | undefined {
  const values: Record<string, unknown> = parse(args).values;
  if (values.help) return undefined;
  const sizes = Object.entries(NUMBERS).map(([key, option]) => [
    key,
    numberOf(option, values[option.name] as string | undefined),
  ]);
  return { ...(Object.fromEntries(sizes) as GraphSize), force: values.force === true };
}

function parse(args: string[]) {
  const numbers = Object.values(NUMBERS).map(({ name }) => [name, { type: 'string' as const }]);
  try {
    return parseArgs({
      args,
      options: {
        ...(Object.fromEntries(numbers) as Record<string, { type: 'string' }>),
        force: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (error) {
    throw new WrongOption(`${(error as Error).message}\nSee --help.`);
  }
}

function numberOf({ name, fallback, most, whole }: NumberOption, text: string | undefined): number {
  if (text === undefined) return fallback;
  const value = Number(text.replaceAll('_', ''));
  const least = whole ? 1 : 0;
  if (text.trim() === '' || !(value >= least && value <= most) || (whole && value % 1 !== 0)) {
    const kind = whole ? 'a whole number' : 'a number';
    throw new WrongOption(`--${name} takes ${kind} from ${least} to ${most}, not ${text}`);
  }
  return value;
}
