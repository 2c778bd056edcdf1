/**
 * Puts a graph into the database: all of it or nothing, in one transaction.
 *
 * Counters are columns of the rows that they count for, so what is counted (follows, favourites) is copied
 * first and the people and articles after it, with their counts.
 */
import type { Pool } from 'banyan';
import type { PoolClient } from 'pg';
import { slugOf } from '../text/slug.ts';
import { arrayOf, copyInto, line } from './copy.ts';
import { Graph, type GraphSize, STREAM } from './graph.ts';
import { type Random, randomOf } from './random.ts';
import { bioOf, bodyOf, commentOf, descriptionOf, titleOf, usernameOf } from './text.ts';
import { TAGS } from './words.ts';
import { Zipf } from './zipf.ts';

export interface LoadOptions extends GraphSize {
  /** Every person's, as it is stored. */
  passwordHash: string;
  /** The end of the time that is spread over. */
  now: Date;
  /** Also when there are people already. */
  force: boolean;
}

export interface Progress {
  /** The table that is being filled; again and again while it goes on. */
  copying(table: string, rows: number): void;
  copied(table: string, rows: number): void;
}

export class NotEmpty extends Error {
  constructor() {
    super('There are people in this database already; nothing was changed. --force adds to them.');
  }
}

/** Ids before the first that is given here. */
interface Bases {
  user: number;
  article: number;
  comment: number;
}

const TAG_LAW = new Zipf(TAGS.length, 1);
const TOTAL_SLOTS = 16;

const TABLES = ['users', 'articles', 'article_tags', 'comments', 'favorites', 'follows', 'tags'];

/**
 * @returns the username of one of them
 * @throws NotEmpty
 */
export async function load(pool: Pool, options: LoadOptions, progress: Progress): Promise<string> {
  const client = await pool.connect();
  try {
    await client.query('begin');
    const { rows } = await client.query('select from users limit 1');
    if (rows.length > 0 && !options.force) throw new NotEmpty();
    const graph = new Graph(options, options.now);
    const bases: Bases = {
      user: await reserve(client, 'users', graph.size.users),
      article: await reserve(client, 'articles', graph.articleCount),
      comment: await reserve(client, 'comments', graph.commentCount),
    };
    await new Loader(client, graph, bases, options, progress).run();
    await client.query('commit');
    // What the planner must know, and what lets it read from indexes alone.
    await client.query(`vacuum (analyze) ${TABLES.join(', ')}`);
    return usernameOf(bases.user);
  } catch (error) {
    await client.query('rollback').catch(() => {});
    throw error;
  } finally {
    client.release();
  }
}

/** Takes ids out of the sequence, so that people who sign up meanwhile get others. @returns the last before */
async function reserve(client: PoolClient, table: string, count: number): Promise<number> {
  if (count === 0) return 0;
  const { rows } = await client.query<{ first: string }>(
    `select nextval(pg_get_serial_sequence($1, 'id')) as first`,
    [table],
  );
  const before = Number(rows[0]!.first) - 1;
  await client.query(`select setval(pg_get_serial_sequence($1, 'id'), $2)`, [
    table,
    before + count,
  ]);
  return before;
}

class Loader {
  readonly #client: PoolClient;
  readonly #graph: Graph;
  readonly #bases: Bases;
  readonly #options: LoadOptions;
  readonly #progress: Progress;
  readonly #followers: Uint32Array;
  readonly #articles: Uint32Array;
  readonly #favorites: Uint32Array;
  readonly #tagged = new Uint32Array(TAGS.length);

  constructor(
    client: PoolClient,
    graph: Graph,
    bases: Bases,
    options: LoadOptions,
    progress: Progress,
  ) {
    this.#client = client;
    this.#graph = graph;
    this.#bases = bases;
    this.#options = options;
    this.#progress = progress;
    this.#followers = new Uint32Array(graph.size.users);
    this.#articles = new Uint32Array(graph.size.users);
    this.#favorites = new Uint32Array(graph.articleCount);
    for (const author of graph.authorOf) this.#articles[author]!++;
  }

  async run(): Promise<void> {
    await this.#copy('follows', ['follower_id', 'followed_id', 'created_at'], this.#followRows());
    await this.#copy(
      'favorites',
      ['user_id', 'article_id', 'author_id', 'article_created_at'],
      this.#favoriteRows(),
    );
    await this.#copy(
      'users',
      [
        ...['id', 'username', 'username_key', 'email', 'password_hash', 'bio'],
        ...['articles_count', 'followers_count', 'created_at'],
      ],
      this.#userRows(),
    );
    await this.#copy(
      'articles',
      [
        ...['id', 'author_id', 'slug', 'title', 'description', 'body', 'tag_list'],
        ...['favorites_count', 'created_at', 'updated_at'],
      ],
      this.#articleRows(),
    );
    await this.#copy(
      'article_tags',
      ['author_id', 'article_id', 'tag', 'created_at'],
      this.#articleTagRows(),
    );
    await this.#copy(
      'comments',
      [
        ...['id', 'article_author_id', 'article_id', 'author_id'],
        ...['body', 'created_at', 'updated_at'],
      ],
      this.#commentRows(),
    );
    await this.#addToCounters();
  }

  async #copy(table: string, columns: string[], rows: Iterable<[string, number]>): Promise<void> {
    let made = 0;
    const texts = function* () {
      for (const [text, count] of rows) {
        made += count;
        if (text) yield text;
      }
    };
    const copied = await copyInto(this.#client, table, columns, texts(), () =>
      this.#progress.copying(table, made),
    );
    this.#progress.copied(table, copied);
  }

  *#followRows(): Generator<[string, number]> {
    const { user } = this.#bases;
    for (let follower = 0; follower < this.#graph.size.users; follower++) {
      let lines = '';
      let count = 0;
      this.#graph.followsOf(follower, (followed, at) => {
        lines += line(user + 1 + follower, user + 1 + followed, iso(at));
        this.#followers[followed]!++;
        count++;
      });
      yield [lines, count];
    }
  }

  *#favoriteRows(): Generator<[string, number]> {
    const { user, article: base } = this.#bases;
    const { authorOf } = this.#graph;
    for (let fan = 0; fan < this.#graph.size.users; fan++) {
      let lines = '';
      let count = 0;
      this.#graph.favoritesOf(fan, article => {
        const author = user + 1 + authorOf[article]!;
        const at = iso(this.#graph.writtenAt(article));
        lines += line(user + 1 + fan, base + 1 + article, author, at);
        this.#favorites[article]!++;
        count++;
      });
      yield [lines, count];
    }
  }

  *#userRows(): Generator<[string, number]> {
    const { seed, users } = this.#graph.size;
    for (let index = 0; index < users; index++) {
      // Named by id: a second seeding continues where the first ended.
      const id = this.#bases.user + 1 + index;
      const username = usernameOf(id - 1);
      const row = line(
        ...[id, username, username, `${username}@example.com`, this.#options.passwordHash],
        bioOf(randomOf(seed, STREAM.userText, index)),
        ...[this.#articles[index]!, this.#followers[index]!, iso(this.#graph.signedUpAt(index))],
      );
      yield [row, 1];
    }
  }

  *#articleRows(): Generator<[string, number]> {
    for (let index = 0; index < this.#graph.articleCount; index++) {
      const id = this.#bases.article + 1 + index;
      const author = this.#bases.user + 1 + this.#graph.authorOf[index]!;
      const random = this.#articleRandom(index);
      const tagList = this.#tagsOf(random);
      for (const tag of tagList) this.#tagged[TAGS.indexOf(tag)]!++;
      const title = titleOf(random);
      const at = iso(this.#graph.writtenAt(index));
      const row = line(
        ...[id, author, `${slugOf(title)}-${id.toString(36)}`, title],
        ...[descriptionOf(random), bodyOf(random), arrayOf(tagList)],
        ...[this.#favorites[index]!, at, at],
      );
      yield [row, 1];
    }
  }

  *#articleTagRows(): Generator<[string, number]> {
    for (let index = 0; index < this.#graph.articleCount; index++) {
      const author = this.#bases.user + 1 + this.#graph.authorOf[index]!;
      const id = this.#bases.article + 1 + index;
      const at = iso(this.#graph.writtenAt(index));
      let lines = '';
      const tagList = this.#tagsOf(this.#articleRandom(index));
      for (const tag of tagList) lines += line(author, id, tag, at);
      yield [lines, tagList.length];
    }
  }

  *#commentRows(): Generator<[string, number]> {
    const { user: userBase, article: articleBase, comment: base } = this.#bases;
    for (let index = 0; index < this.#graph.commentCount; index++) {
      const { article, user, at, random } = this.#graph.comment(index);
      const author = userBase + 1 + this.#graph.authorOf[article]!;
      const row = line(
        ...[base + 1 + index, author, articleBase + 1 + article, userBase + 1 + user],
        ...[commentOf(random), iso(at), iso(at)],
      );
      yield [row, 1];
    }
  }

  /** The first that comes of an article's random sequence are its tags, for two tables. */
  #articleRandom(index: number): Random {
    return randomOf(this.#graph.size.seed, STREAM.articleText, index);
  }

  #tagsOf(random: Random): string[] {
    const wanted = Math.floor(random() * 2 * this.#graph.size.tagsPerArticle + 0.5);
    const chosen = new Set<string>();
    for (let left = wanted; left > 0; left--) chosen.add(TAGS[TAG_LAW.sample(random) - 1]!);
    return [...chosen];
  }

  async #addToCounters(): Promise<void> {
    const slots = new Array<number>(TOTAL_SLOTS).fill(0);
    for (const author of this.#graph.authorOf) {
      slots[(this.#bases.user + 1 + author) % TOTAL_SLOTS]!++;
    }
    await this.#client.query(
      `update article_totals set articles_count = articles_count + added
       from unnest($1::bigint[]) with ordinality as counted (added, place) where slot = place - 1`,
      [slots],
    );
    const used = TAGS.map((name, at) => ({ name, count: this.#tagged[at]! })).filter(
      ({ count }) => count > 0,
    );
    await this.#client.query(
      `insert into tags select * from unnest($1::text[], $2::integer[])
       on conflict (name) do update set articles_count = tags.articles_count + excluded.articles_count`,
      [used.map(({ name }) => name), used.map(({ count }) => count)],
    );
  }
}

function iso(time: number): string {
  return new Date(time).toISOString();
}
