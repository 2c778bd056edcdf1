/** The front page in its three forms. */
import { Hono } from 'hono';
import { type ArticleList, listArticles } from '../db/articles.ts';
import { listFeed } from '../db/feeds.ts';
import { popularTags } from '../db/tags.ts';
import type { PageEnv, Services } from '../services.ts';
import { memberOf, type PageContext, type Render, readPage } from './page.ts';
import { type HomeOptions, homeView } from './views/home.ts';
import { tagPath } from './views/html.ts';

const POPULAR_TAGS = 20;

type Shown = Pick<HomeOptions, 'feed' | 'path' | 'empty'> & { title: string; tag?: string };

export function homePages(services: Services, render: Render) {
  const show = async (c: PageContext, list: Promise<ArticleList>, { title, ...shown }: Shown) => {
    const [found, tags] = await Promise.all([list, popularTags(services, POPULAR_TAGS)]);
    const isMember = c.get('viewer') !== undefined;
    const { page } = readPage(c);
    return render(c, title, homeView({ ...shown, list: found, page, isMember, popularTags: tags }));
  };

  return new Hono<PageEnv>()
    .get('/', c =>
      show(c, listArticles(services, {}, readPage(c).range, c.get('viewer')?.id), {
        title: 'Home',
        feed: 'global',
        path: '/',
        empty: 'No articles yet. The first could be yours.',
      }),
    )
    .get('/feed', c =>
      show(c, listFeed(services, memberOf(c).id, readPage(c).range), {
        title: 'Your feed',
        feed: 'following',
        path: '/feed',
        empty: 'Nothing here yet: follow people, and what they write will be here.',
      }),
    )
    .get('/tag/:tag', c => {
      const tag = c.req.param('tag');
      return show(c, listArticles(services, { tag }, readPage(c).range, c.get('viewer')?.id), {
        title: `#${tag}`,
        feed: 'tag',
        tag,
        path: tagPath(tag),
        empty: 'No articles with this tag.',
      });
    });
}
