/**
 * The tables for Drizzle. `migrations/` makes them; what they are for is said there.
 *
 * Ids are `bigint` in JavaScript too: nothing here may assume how they are handed out.
 */
import { sql } from 'drizzle-orm';
import {
  bigint,
  boolean,
  customType,
  integer,
  pgTable,
  primaryKey,
  smallint,
  text,
  timestamp,
} from 'drizzle-orm/pg-core';

const id = (name: string) => bigint(name, { mode: 'bigint' });
const moment = (name: string) => timestamp(name, { withTimezone: true, precision: 3 });
const bytea = customType<{ data: Buffer }>({ dataType: () => 'bytea' });

export const users = pgTable('users', {
  id: id('id').primaryKey().generatedByDefaultAsIdentity(),
  username: text('username').notNull(),
  usernameKey: text('username_key').notNull(),
  email: text('email').notNull(),
  passwordHash: text('password_hash').notNull(),
  credentialsVersion: integer('credentials_version').notNull().default(1),
  bio: text('bio').notNull().default(''),
  image: text('image').notNull().default(''),
  articlesCount: integer('articles_count').notNull().default(0),
  followersCount: integer('followers_count').notNull().default(0),
  articlesUnderway: integer('articles_underway').notNull().default(0),
  createdAt: moment('created_at').notNull().defaultNow(),
});

export const avatars = pgTable(
  'avatars',
  {
    userId: id('user_id').notNull(),
    hash: text('hash').notNull(),
    type: text('type').notNull(),
    bytes: bytea('bytes').notNull(),
    thumbnail: bytea('thumbnail'),
  },
  table => [primaryKey({ columns: [table.userId, table.hash] })],
);

export const articles = pgTable(
  'articles',
  {
    id: id('id').notNull().generatedByDefaultAsIdentity(),
    authorId: id('author_id').notNull(),
    slug: text('slug').notNull(),
    title: text('title').notNull(),
    description: text('description').notNull(),
    body: text('body').notNull(),
    tagList: text('tag_list').array().notNull().default(sql`'{}'`),
    favoritesCount: integer('favorites_count').notNull().default(0),
    createdAt: moment('created_at').notNull().defaultNow(),
    updatedAt: moment('updated_at').notNull().defaultNow(),
  },
  table => [primaryKey({ columns: [table.authorId, table.id] })],
);

export const articleTags = pgTable(
  'article_tags',
  {
    authorId: id('author_id').notNull(),
    articleId: id('article_id').notNull(),
    tag: text('tag').notNull(),
    createdAt: moment('created_at').notNull(),
  },
  table => [primaryKey({ columns: [table.authorId, table.articleId, table.tag] })],
);

export const comments = pgTable(
  'comments',
  {
    id: id('id').notNull().generatedByDefaultAsIdentity(),
    articleAuthorId: id('article_author_id').notNull(),
    articleId: id('article_id').notNull(),
    authorId: id('author_id').notNull(),
    body: text('body').notNull(),
    createdAt: moment('created_at').notNull().defaultNow(),
    updatedAt: moment('updated_at').notNull().defaultNow(),
  },
  table => [primaryKey({ columns: [table.articleAuthorId, table.articleId, table.id] })],
);

export const favorites = pgTable(
  'favorites',
  {
    userId: id('user_id').notNull(),
    articleId: id('article_id').notNull(),
    authorId: id('author_id').notNull(),
    articleCreatedAt: moment('article_created_at').notNull(),
  },
  table => [primaryKey({ columns: [table.userId, table.articleId] })],
);

export const follows = pgTable(
  'follows',
  {
    followerId: id('follower_id').notNull(),
    followedId: id('followed_id').notNull(),
    inFeed: boolean('in_feed').notNull().default(false),
    createdAt: moment('created_at').notNull().defaultNow(),
  },
  table => [primaryKey({ columns: [table.followerId, table.followedId] })],
);

export const feedEntries = pgTable(
  'feed_entries',
  {
    userId: id('user_id').notNull(),
    authorId: id('author_id').notNull(),
    articleId: id('article_id').notNull(),
    createdAt: moment('created_at').notNull(),
  },
  table => [primaryKey({ columns: [table.userId, table.authorId, table.articleId] })],
);

export const articleViews = pgTable(
  'article_views',
  {
    authorId: id('author_id').notNull(),
    articleId: id('article_id').notNull(),
    views: bigint('views', { mode: 'number' }).notNull(),
  },
  table => [primaryKey({ columns: [table.authorId, table.articleId] })],
);

export const tags = pgTable('tags', {
  name: text('name').primaryKey(),
  articlesCount: integer('articles_count').notNull(),
});

export const articleTotals = pgTable('article_totals', {
  slot: smallint('slot').primaryKey(),
  articlesCount: bigint('articles_count', { mode: 'number' }).notNull(),
});
