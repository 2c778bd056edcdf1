/**
 * What people may send: the API and the pages check with the same schemas.
 *
 * Every text has a limit, and none may hold the character NUL, which PostgreSQL's text cannot.
 */
import * as v from 'valibot';
import { BLANK } from './validate.ts';

const isMissing = (value: unknown) => value === undefined || value === null;

/** A missing key is reported by the object, a wrong value by the field. */
const object = <Entries extends v.ObjectEntries>(entries: Entries) =>
  v.object(entries, issue => (isMissing(issue.input) ? BLANK : 'must be an object'));

const anyText = v.pipe(
  v.string(issue => (isMissing(issue.input) ? BLANK : 'must be a string')),
  v.check(text => !text.includes('\0'), 'must not contain the character NUL'),
);

const atMost = (length: number) =>
  v.maxLength<string, number, string>(
    length,
    `is too long (maximum is ${length.toLocaleString('en')} characters)`,
  );

const notBlank = v.check<string, string>(text => text.trim() !== '', BLANK);

/** One line: spaces around it do not count. */
const line = (length: number) => v.pipe(anyText, v.trim(), notBlank, atMost(length));

/** Kept as it was typed. */
const prose = (length: number) => v.pipe(anyText, notBlank, atMost(length));

const username = v.pipe(
  line(40),
  v.normalize('NFC'),
  v.regex(
    /^[\p{L}\p{N}][\p{L}\p{N}\p{M}._-]*$/u,
    'may have letters, digits, dots, hyphens and underscores, and starts with a letter or digit',
  ),
);

const email = v.pipe(line(254), v.toLowerCase(), v.email('is not an email address'));

const password = v.pipe(prose(128), v.minLength(8, 'is too short (minimum is 8 characters)'));

const bio = v.pipe(anyText, v.trim(), atMost(1_000));

const AVATAR_PATH = /^\/avatars\/\d+\/[0-9a-f]{32}$/;

const image = v.pipe(
  anyText,
  v.trim(),
  atMost(2_000),
  v.check(
    text => text === '' || AVATAR_PATH.test(text) || isWebAddress(text),
    'must be an address that starts with http:// or https://',
  ),
);

const tagList = v.pipe(
  v.array(
    v.pipe(
      v.string('must be a list of strings'),
      v.check(text => !text.includes('\0'), 'must not contain the character NUL'),
      v.trim(),
      v.maxLength(50, 'has a tag that is too long (maximum is 50 characters)'),
    ),
    'must be a list of strings',
  ),
  v.transform(tags => [...new Set(tags)].filter(tag => tag !== '')),
  v.maxLength(20, 'has too many tags (maximum is 20)'),
);

const title = line(200);
const description = line(500);
const articleBody = prose(100_000);

/** `null` takes the text away, as some clients send it. */
const orNone = <Schema extends v.GenericSchema<string, string>>(schema: Schema) =>
  v.optional(
    v.pipe(
      v.nullable(schema),
      v.transform(text => text ?? ''),
    ),
  );

export const registration = object({ username, email, password });

export const credentials = object({
  email: v.pipe(line(254), v.toLowerCase()),
  password: prose(128),
});

export const userChanges = object({
  username: v.optional(username),
  email: v.optional(email),
  password: v.optional(password),
  bio: orNone(bio),
  image: orNone(image),
});

export const newArticle = object({
  title,
  description,
  body: articleBody,
  tagList: v.optional(tagList, []),
});

export const articleChanges = object({
  title: v.optional(title),
  description: v.optional(description),
  body: v.optional(articleBody),
  tagList: v.optional(tagList),
});

export const newComment = object({ body: prose(10_000) });

/** Numbers in a query string. A deep offset makes the database read all that it skips. */
const integer = (minimum: number, maximum: number, fallback: number) =>
  v.pipe(
    v.optional(v.string(), String(fallback)),
    v.regex(/^\d{1,9}$/, 'must be a whole number'),
    v.toNumber(),
    v.minValue(minimum, `must be at least ${minimum}`),
    v.maxValue(maximum, `must be at most ${maximum.toLocaleString('en')}`),
  );

const queryText = v.optional(
  v.pipe(
    v.string(),
    v.check(text => !text.includes('\0'), 'must not contain the character NUL'),
    v.maxLength(200, 'is too long (maximum is 200 characters)'),
  ),
);

export const MAX_OFFSET = 10_000;

export const pageQuery = v.object({
  limit: integer(1, 100, 20),
  offset: integer(0, MAX_OFFSET, 0),
});

export const articleQuery = v.object({
  ...pageQuery.entries,
  tag: queryText,
  author: queryText,
  favorited: queryText,
});

export const commentId = v.object({
  id: v.pipe(
    v.string(),
    v.regex(/^\d{1,18}$/, 'must be a whole number'),
    v.transform(digits => BigInt(digits)),
  ),
});

function isWebAddress(text: string): boolean {
  return URL.canParse(text) && /^https?:$/.test(new URL(text).protocol);
}
