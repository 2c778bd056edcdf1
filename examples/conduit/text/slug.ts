/** Slugs: an article's name in its address. Pure, but for the random of a suffix. */
import { randomInt } from 'node:crypto';

const MAX_LENGTH = 80;

/** Words that are paths of the API in the place of a slug: `/api/articles/feed`. */
const RESERVED = new Set(['feed']);

/** Letters without those that are easily taken for another. */
const SUFFIX_LETTERS = 'abcdefghjkmnpqrstuvwxyz23456789';
const SUFFIX_LENGTH = 6;

/** `Crème brûlée, twice!` → `creme-brulee-twice`. Letters of any alphabet are kept. */
export function slugOf(title: string): string {
  const words = title
    .normalize('NFKD')
    .replace(/\p{M}/gu, '')
    .normalize('NFC')
    .toLowerCase()
    .replace(/['’]/g, '')
    .replace(/[^\p{L}\p{N}]+/gu, '-');
  const slug = [...words]
    .slice(0, MAX_LENGTH)
    .join('')
    .replace(/^-+|-+$/g, '');
  return slug || 'article';
}

/** The slugs to try for a title, best first: the plain one, then with suffixes that nobody can guess. */
export function* slugCandidates(title: string, tries = 5): Generator<string> {
  const slug = slugOf(title);
  if (!RESERVED.has(slug)) yield slug;
  for (let count = 0; count < tries; count++) yield `${slug}-${randomSuffix()}`;
}

/** In UTF-16: a letter may take two, and a suffix may follow. No slug is longer. */
export const MAX_SLUG_LENGTH = 2 * MAX_LENGTH + 1 + SUFFIX_LENGTH;

function randomSuffix(): string {
  let suffix = '';
  while (suffix.length < SUFFIX_LENGTH) suffix += SUFFIX_LETTERS[randomInt(SUFFIX_LETTERS.length)];
  return suffix;
}
