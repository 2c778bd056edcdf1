/**
 * Reading articles: one, and lists of them, newest first.
 *
 * Holds true here:
 * - An article comes with its author in one query, since both have the same key. What the viewer did
 *   (favourites, follows) has the viewer's key: one query each for a whole list, however long.
 * - The number of all results comes from a counter where there is one; nothing counts a big table.
 */
import { and, desc, eq, type SQL, sql } from 'drizzle-orm';
import { anyOf, type Database } from './database.ts';
import { followedBy } from './follows.ts';
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

const EMPTY: ArticleList = { articles: [], total: 0 };

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
  author: { username: users.username, bio: users.bio, image: users.image },
};

const NEWEST = [desc(articles.createdAt), desc(articles.id)];

export async function findArticle(
  db: Database,
  slug: string,
  viewerId: bigint | undefined,
): Promise<Article | undefined> {
  const found = await db
    .select({ ...SUMMARY, body: articles.body })
    .from(articles)
    .innerJoin(users, eq(users.id, articles.authorId))
    .where(eq(articles.slug, slug));
  const [article] = await asSeenBy(db, viewerId, found);
  return article;
}

export async function listArticles(
  db: Database,
  filter: ArticleFilter,
  page: Page,
  viewerId: bigint | undefined,
): Promise<ArticleList> {
  const { tag, author, favorited } = filter;
  const [writer, fan] = await Promise.all([
    author === undefined ? undefined : findUserByName(db, author),
    favorited === undefined ? undefined : findUserByName(db, favorited),
  ]);
  if ((author !== undefined && !writer) || (favorited !== undefined && !fan)) return EMPTY;

  if (fan) return listFavorites(db, fan.id, { tag, authorId: writer?.id }, page, viewerId);
  if (tag !== undefined) return listTagged(db, tag, writer?.id, page, viewerId);
  const [found, total] = await Promise.all([
    select(db, writer && eq(articles.authorId, writer.id), page),
    writer ? writer.articlesCount : countAll(db),
  ]);
  return { articles: await asSeenBy(db, viewerId, found), total };
}

/** The articles of all whom the viewer follows. */
export async function listFeed(db: Database, viewerId: bigint, page: Page): Promise<ArticleList> {
  const followed = await followedBy(db, viewerId);
  if (followed.length === 0) return EMPTY;
  const [found, [counted]] = await Promise.all([
    select(db, anyOf(articles.authorId, followed), page),
    db
      .select({ total: sql`coalesce(sum(${users.articlesCount}), 0)`.mapWith(Number) })
      .from(users)
      .where(anyOf(users.id, followed)),
  ]);
  return { articles: await asSeenBy(db, viewerId, found), total: counted!.total };
}

async function listTagged(
  db: Database,
  tag: string,
  authorId: bigint | undefined,
  { limit, offset }: Page,
  viewerId: bigint | undefined,
): Promise<ArticleList> {
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
      .innerJoin(users, eq(users.id, articles.authorId))
      .where(isWanted)
      .orderBy(desc(articleTags.createdAt), desc(articleTags.articleId))
      .limit(limit)
      .offset(offset),
    authorId === undefined ? countTagged(db, tag) : db.$count(articleTags, isWanted),
  ]);
  return { articles: await asSeenBy(db, viewerId, found), total };
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
  viewerId: bigint | undefined,
): Promise<ArticleList> {
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
    return { articles: await asSeenBy(db, viewerId, found), total };
  }
  const isTagged = and(withKeys(await chosen), sql`${tag} = any(${articles.tagList})`);
  const [found, total] = await Promise.all([
    select(db, isTagged, page),
    db.$count(articles, isTagged),
  ]);
  return { articles: await asSeenBy(db, viewerId, found), total };
}

type FoundArticle = Omit<ArticleSummary, 'favorited' | 'author'> & {
  author: Omit<Profile, 'following'>;
};

function select(
  db: Database,
  where: SQL | undefined,
  { limit, offset }: Page,
): Promise<FoundArticle[]> {
  return db
    .select(SUMMARY)
    .from(articles)
    .innerJoin(users, eq(users.id, articles.authorId))
    .where(where)
    .orderBy(...NEWEST)
    .limit(limit)
    .offset(offset);
}

/** Ids alone would do; the authors say in which database to look. */
function withKeys(keys: { id: bigint; authorId: bigint }[]): SQL | undefined {
  const authorIds = new Set(keys.map(({ authorId }) => authorId));
  return and(
    anyOf(articles.authorId, authorIds),
    anyOf(
      articles.id,
      keys.map(({ id }) => id),
    ),
  );
}

/** Adds what depends on who is looking. */
async function asSeenBy<Found extends FoundArticle>(
  db: Database,
  viewerId: bigint | undefined,
  found: Found[],
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
      followedAmong(
        db,
        viewerId,
        found.map(({ authorId }) => authorId),
      ),
    ]);
  }
  return found.map(article => ({
    ...article,
    favorited: favorited.has(article.id),
    author: { ...article.author, following: following.has(article.authorId) },
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
