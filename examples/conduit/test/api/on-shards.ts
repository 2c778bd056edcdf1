import { runOn } from './topology.ts';

/** Each person with what is theirs on one of four databases, as `migrations/` is laid out for; read through the cache. */
runOn({
  cache: true,
  database: {
    memoryMb: 64,
    shards: 4,
    tables: {
      users: { shardBy: 'id' },
      avatars: { shardBy: 'user_id' },
      articles: { shardBy: 'author_id' },
      article_tags: { shardBy: 'author_id' },
      comments: { shardBy: 'article_author_id' },
      follows: { shardBy: 'follower_id' },
      favorites: { shardBy: 'user_id' },
      feed_entries: { shardBy: 'user_id' },
      article_views: { shardBy: 'author_id' },
    },
    unique: ['users.username_key', 'users.email', 'articles.slug'],
  },
});
