/**
 * Reading articles: one, and lists of them, newest first.
 *
 * Holds true here:
 * - What is the same for everybody is kept in the cache, which sees by itself when it changes. Authors are looked up by their keys,
 *   not joined: so a list is computed anew when one of *its* authors changes, not when anybody does.
 * - What the viewer did (favourites, follows) is for nobody else, and is asked each time: one query each for a whole list,
 *   however long.
 * - The number of all results comes from a counter where there is one; nothing counts a big table.
 */
import { createHash } from 'node:crypto';
import { and, desc, eq, type SQL, sql } from 'drizzle-orm';
import { MAX_SLUG_LENGTH } from '../text/slug.ts';
import { anyOf, type Database, type Store } from './database.ts';
import { articles, articleTags, articleTotals, favorites, follows, tags, users } from './schema.ts';
import { findUserByName, type Profile } from './users.ts';

export interface ArticleSummary {
  id: bigint;
  authorId: bigint;
  slug: string;
  title: string;
  description: string;
  tagList: string[];
  createdAt: Date;
  updatedAt: Date;
  favoritesCount: number;
  /** By the viewer. */
  favorited: boolean;
  author: Profile;
}

export interface Article extends ArticleSummary {
  body: string;
}

export interface ArticleList {
  articles: ArticleSummary[];
  /** How many there are on all pages. */
  total: number;
}

export interface Page {
  limit: number;
  offset: number;
}

export interface ArticleFilter {
  tag?: string | undefined;
  /** A username. */
  author?: string | undefined;
  /** Of the user who has favourited it. */
  favorited?: string | undefined;
}

/** As it is for everybody. */
export type SharedArticle = Omit<ArticleSummary, 'favorited' | 'author'> & {
  author: Omit<Profile, 'following'>;
};

export interface SharedList {
  articles: SharedArticle[];
  total: number;
}

export const EMPTY: SharedList = { articles: [], total: 0 };

const SUMMARY = {
  id: articles.id,
  authorId: articles.authorId,
  slug: articles.slug,
  title: articles.title,
  description: articles.description,
  tagList: articles.tagList,
  createdAt: articles.createdAt,
  updatedAt: articles.updatedAt,
  favoritesCount: articles.favoritesCount,
};

const NEWEST = [desc(articles.createdAt), desc(articles.id)];

export async function findArticle(
  { db, cache }: Store,
  slug: string,
  viewerId: bigint | undefined,
): Promise<Article | undefined> {
  if (slug.length > MAX_SLUG_LENGTH) return undefined;
  const found = await cache.get(['article', slug], async () => {
    const rows = await db
      .select({ ...SUMMARY, body: articles.body })
      .from(articles)
      .where(eq(articles.slug, slug));
    return (await withAuthors(db, rows))[0];
  });
  if (!found) return undefined;
  const [article] = await asSeenBy(db, viewerId, [found]);
  return article;
}

export async function listArticles(
  { db, cache }: Store,
  filter: ArticleFilter,
  page: Page,
  viewerId: bigint | undefined,
): Promise<ArticleList> {
  const key = ['articles', digest(filter), page.limit, page.offset];
  const { articles: found, total } = await cache.get(key, () => sharedList(db, filter, page));
  return { articles: await asSeenBy(db, viewerId, found), total };
}

/** Any length becomes the same: a key may have 512 bytes. */
function digest({ tag, author, favorited }: ArticleFilter): string {
  const text = JSON.stringify([tag ?? null, author ?? null, favorited ?? null]);
  return createHash('sha256').update(text).digest('base64url');
}

async function sharedList(db: Database, filter: ArticleFilter, page: Page): Promise<SharedList> {
  const { tag, author, favorited } = filter;
  const [writer, fan] = await Promise.all([
    author === undefined ? undefined : findUserByName(db, author),
    favorited === undefined ? undefined : findUserByName(db, favorited),
  ]);
  if ((author !== undefined && !writer) || (favorited !== undefined && !fan)) return EMPTY;

  if (fan) return listFavorites(db, fan.id, { tag, authorId: writer?.id }, page);
  if (tag !== undefined) return listTagged(db, tag, writer?.id, page);
  const [found, total] = await Promise.all([
    select(db, writer && eq(articles.authorId, writer.id), page),
    writer ? writer.articlesCount : countAll(db),
  ]);
  return { articles: found, total };
}

async function listTagged(
  db: Database,
  tag: string,
  authorId: bigint | undefined,
  { limit, offset }: Page,
): Promise<SharedList> {
  const isWanted = and(
    eq(articleTags.tag, tag),
    authorId === undefined ? undefined : eq(articleTags.authorId, authorId),
  );
  const [found, total] = await Promise.all([
    db
      .select(SUMMARY)
      .from(articleTags)
      .innerJoin(
        articles,
        and(eq(articles.authorId, articleTags.authorId), eq(articles.id, articleTags.articleId)),
      )
      .where(isWanted)
      .orderBy(desc(articleTags.createdAt), desc(articleTags.articleId))
      .limit(limit)
      .offset(offset)
      .then(rows => withAuthors(db, rows)),
    authorId === undefined ? countTagged(db, tag) : db.$count(articleTags, isWanted),
  ]);
  return { articles: found, total };
}

/**
 * Favourites live with the fan and articles with their authors: first which, then the articles. A tag is
 * known to the article alone, so with one all the fan's favourites are looked at.
 */
async function listFavorites(
  db: Database,
  fanId: bigint,
  { tag, authorId }: { tag: string | undefined; authorId: bigint | undefined },
  page: Page,
): Promise<SharedList> {
  const isWanted = and(
    eq(favorites.userId, fanId),
    authorId === undefined ? undefined : eq(favorites.authorId, authorId),
  );
  const chosen = db
    .select({ id: favorites.articleId, authorId: favorites.authorId })
    .from(favorites)
    .where(isWanted)
    .orderBy(desc(favorites.articleCreatedAt), desc(favorites.articleId))
    .$dynamic();
  if (tag === undefined) {
    const [keys, total] = await Promise.all([
      chosen.limit(page.limit).offset(page.offset),
      db.$count(favorites, isWanted),
    ]);
    const found = await select(db, withKeys(keys), { limit: page.limit, offset: 0 });
    return { articles: found, total };
  }
  const isTagged = and(withKeys(await chosen), sql`${tag} = any(${articles.tagList})`);
  const [found, total] = await Promise.all([
    select(db, isTagged, page),
    db.$count(articles, isTagged),
  ]);
  return { articles: found, total };
}

export async function select(
  db: Database,
  where: SQL | undefined,
  { limit, offset }: Page,
): Promise<SharedArticle[]> {
  const rows = await db
    .select(SUMMARY)
    .from(articles)
    .where(where)
    .orderBy(...NEWEST)
    .limit(limit)
    .offset(offset);
  return withAuthors(db, rows);
}

async function withAuthors<Row extends { authorId: bigint }>(
  db: Database,
  rows: Row[],
): Promise<(Row & { author: Omit<Profile, 'following'> })[]> {
  if (rows.length === 0) return [];
  const authorIds = new Set(rows.map(({ authorId }) => authorId));
  const authors = await db
    .select({ id: users.id, username: users.username, bio: users.bio, image: users.image })
    .from(users)
    .where(anyOf(users.id, authorIds));
  const authorOf = new Map(authors.map(({ id, ...author }) => [id, author]));
  return rows.flatMap(row => {
    const author = authorOf.get(row.authorId);
    return author ? [{ ...row, author }] : [];
  });
}

/** Ids alone would do; the authors say in which database to look. */
export function withKeys(keys: { id: bigint; authorId: bigint }[]): SQL | undefined {
  const authorIds = new Set(keys.map(({ authorId }) => authorId));
  return and(
    anyOf(articles.authorId, authorIds),
    anyOf(
      articles.id,
      keys.map(({ id }) => id),
    ),
  );
}

/**
 * Adds what depends on who is looking.
 * @param areFollowed the viewer follows all their authors: it need not be asked
 */
export async function asSeenBy<Found extends SharedArticle>(
  db: Database,
  viewerId: bigint | undefined,
  found: readonly Found[],
  areFollowed = false,
): Promise<(Found & { favorited: boolean; author: Profile })[]> {
  let favorited = new Set<bigint>();
  let following = new Set<bigint>();
  if (viewerId !== undefined && found.length > 0) {
    [favorited, following] = await Promise.all([
      favoritedAmong(
        db,
        viewerId,
        found.map(({ id }) => id),
      ),
      areFollowed
        ? following
        : followedAmong(
            db,
            viewerId,
            found.map(({ authorId }) => authorId),
          ),
    ]);
  }
  return found.map(article => ({
    ...article,
    favorited: favorited.has(article.id),
    author: { ...article.author, following: areFollowed || following.has(article.authorId) },
  }));
}

async function favoritedAmong(
  db: Database,
  viewerId: bigint,
  articleIds: bigint[],
): Promise<Set<bigint>> {
  const rows = await db
    .select({ id: favorites.articleId })
    .from(favorites)
    .where(and(eq(favorites.userId, viewerId), anyOf(favorites.articleId, articleIds)));
  return new Set(rows.map(({ id }) => id));
}

/** Which of these people the viewer follows. */
export async function followedAmong(
  db: Database,
  viewerId: bigint,
  userIds: Iterable<bigint>,
): Promise<Set<bigint>> {
  const rows = await db
    .select({ id: follows.followedId })
    .from(follows)
    .where(and(eq(follows.followerId, viewerId), anyOf(follows.followedId, new Set(userIds))));
  return new Set(rows.map(({ id }) => id));
}

async function countAll(db: Database): Promise<number> {
  const [counted] = await db
    .select({ total: sql`sum(${articleTotals.articlesCount})`.mapWith(Number) })
    .from(articleTotals);
  return counted!.total;
}

async function countTagged(db: Database, tag: string): Promise<number> {
  const [counted] = await db
    .select({ total: tags.articlesCount })
    .from(tags)
    .where(eq(tags.name, tag));
  return counted?.total ?? 0;
}
