/** Comments: they live with the article; who wrote them is looked up for all of them at once. Kept in the cache for all who read. */
import { and, desc, eq } from 'drizzle-orm';
import { forbidden, notFound } from '../problem.ts';
import { MAX_SLUG_LENGTH } from '../text/slug.ts';
import { findArticleKey } from './article-writes.ts';
import { followedAmong } from './articles.ts';
import { anyOf, type Database, postgresError, type Store } from './database.ts';
import { comments, users } from './schema.ts';
import type { Profile, User } from './users.ts';

export interface Comment {
  id: bigint;
  body: string;
  createdAt: Date;
  updatedAt: Date;
  author: Profile;
}

/** The document knows no pages of comments; the newest of a very hot article must do. */
export const COMMENT_LIMIT = 500;

const COMMENT = {
  id: comments.id,
  authorId: comments.authorId,
  body: comments.body,
  createdAt: comments.createdAt,
  updatedAt: comments.updatedAt,
};

/** As it is for everybody. */
type SharedComment = Omit<Comment, 'author'> & {
  author: Omit<Profile, 'following'> & { id: bigint };
};

/** Newest first. @throws Problem 404 when there is no such article */
export async function listComments(
  { db, cache }: Store,
  slug: string,
  viewerId: bigint | undefined,
): Promise<Comment[]> {
  if (slug.length > MAX_SLUG_LENGTH) throw notFound('article');
  const found = await cache.get(['comments', slug], () => sharedComments(db, slug));
  if (found.length === 0) return [];
  const authorIds = new Set(found.map(({ author }) => author.id));
  const following =
    viewerId === undefined ? new Set<bigint>() : await followedAmong(db, viewerId, authorIds);
  return found.map(comment => ({
    ...comment,
    author: { ...comment.author, following: following.has(comment.author.id) },
  }));
}

async function sharedComments(db: Database, slug: string): Promise<SharedComment[]> {
  const article = await findArticleKey(db, slug);
  const found = await db
    .select(COMMENT)
    .from(comments)
    .where(and(eq(comments.articleAuthorId, article.authorId), eq(comments.articleId, article.id)))
    .orderBy(desc(comments.createdAt), desc(comments.id))
    .limit(COMMENT_LIMIT);
  if (found.length === 0) return [];
  const authors = await db
    .select({ id: users.id, username: users.username, bio: users.bio, image: users.image })
    .from(users)
    .where(anyOf(users.id, new Set(found.map(({ authorId }) => authorId))));
  const authorOf = new Map(authors.map(author => [author.id, author]));
  return found.flatMap(comment => {
    const author = authorOf.get(comment.authorId);
    return author ? [{ ...comment, author }] : [];
  });
}

/** @throws Problem 404 when there is no such article */
export async function addComment(
  db: Database,
  author: User,
  slug: string,
  body: string,
): Promise<Comment> {
  const article = await findArticleKey(db, slug);
  try {
    const [created] = await db
      .insert(comments)
      .values({
        articleAuthorId: article.authorId,
        articleId: article.id,
        authorId: author.id,
        body,
      })
      .returning(COMMENT);
    return { ...created!, author: { ...author, following: false } };
  } catch (error) {
    // The article was deleted meanwhile.
    if (postgresError(error)?.code === '23503') throw notFound('article');
    throw error;
  }
}

/** @throws Problem 404 when there is none, 403 when it is another's */
export async function deleteComment(
  db: Database,
  viewerId: bigint,
  slug: string,
  id: bigint,
): Promise<void> {
  const article = await findArticleKey(db, slug);
  const isComment = and(
    eq(comments.articleAuthorId, article.authorId),
    eq(comments.articleId, article.id),
    eq(comments.id, id),
  );
  const [found] = await db.select(COMMENT).from(comments).where(isComment);
  if (!found) throw notFound('comment');
  if (found.authorId !== viewerId) throw forbidden('comment');
  await db.delete(comments).where(isComment);
}
