/**
 * What is done in the background: its names, and what has to be told for it. Whoever publishes and whoever works
 * (`work.ts`) both read it here.
 */
import { defineJob, defineTopic } from 'banyan';
import * as v from 'valibot';

/** Messages are JSON, which has no `bigint`: a text on the way, and a number again for who handles it. */
const id = v.pipe(
  v.string(),
  v.regex(/^\d{1,19}$/),
  v.transform(text => BigInt(text)),
);

export const welcomeMail = defineJob({
  name: 'welcome-mail',
  schema: v.object({ userId: id }),
});

export const articlePublished = defineTopic({
  name: 'article-published',
  schema: v.object({ authorId: id, articleId: id }),
});

/** The followers after the first page, page by page, and then the end. */
export const spreadArticle = defineJob({
  name: 'spread-article',
  schema: v.object({
    authorId: id,
    articleId: id,
    /** Followers with a higher id have not been looked at. Null: all have. */
    after: v.nullable(id),
  }),
});

/** Puts what the people whom somebody follows have written before into the feed. */
export const fillFeed = defineJob({
  name: 'fill-feed',
  schema: v.object({ readerId: id }),
});

export const makeThumbnail = defineJob({
  name: 'make-thumbnail',
  schema: v.object({ userId: id, hash: v.string() }),
});

export const countViews = defineJob({
  name: 'count-views',
  schema: v.object({
    views: v.array(
      v.object({ authorId: id, articleId: id, count: v.pipe(v.number(), v.integer()) }),
    ),
  }),
});

export const recountTags = defineJob({ name: 'recount-tags', timeout: '1h' });
