-- What the background work (jobs/) keeps:
--
--   feed_entries (user_id)        a person's feed lives with the person
--   article_views (author_id)     with the article, and not in its row: whoever reads articles through the
--                                 cache need not read them anew for each view

-- The articles of the people whom somebody follows, one row for each reader. It may lag behind `articles`:
-- db/feeds.ts knows when it does.
create table feed_entries (
  user_id bigint not null,
  author_id bigint not null,
  article_id bigint not null,
  -- The article's: its place in the feed.
  created_at timestamptz(3) not null,
  primary key (user_id, author_id, article_id)
);
create index feed_entries_newest on feed_entries (user_id, created_at desc, article_id desc);
-- For the deletion of an article.
create index feed_entries_of_article on feed_entries (article_id);

-- Whether what the followed person had written before is in the follower's feed.
alter table follows add column in_feed boolean not null default false;
-- An author's followers, page by page.
create index follows_of_followed on follows (followed_id, follower_id);

-- How many of a person's articles are on their way to the followers' feeds.
alter table users add column articles_underway integer not null default 0;

create table article_views (
  author_id bigint not null,
  article_id bigint not null,
  views bigint not null,
  primary key (author_id, article_id)
);

-- A small square of the picture. Null: not made yet; of no bytes: it cannot be made.
alter table avatars add column thumbnail bytea;
