/** This process does what is in `definitions.ts`: a worker always, a web server unless it is told not to. */
import type { Services } from '../services.ts';
import {
  articlePublished,
  countViews,
  fillFeed,
  makeThumbnail,
  recountTags,
  spreadArticle,
  welcomeMail,
} from './definitions.ts';
import { fill, spread } from './feeds.ts';
import { recount } from './tag-counts.ts';
import { storeThumbnailOf } from './thumbnails.ts';
import { addUp } from './views.ts';
import { sendWelcome } from './welcome-mail.ts';

/** Decoding pictures takes the processor, which the requests of a web server want too. */
const THUMBNAILS_AT_A_TIME = 1;

const VIEWS_IN_A_BATCH = 500;

/** @returns when messages are taken */
export function work(services: Services): Promise<void> {
  const { queue } = services;
  queue.work(welcomeMail, job => sendWelcome(services, job));
  queue.subscribe(articlePublished, 'feeds', job => spread(services, job, job.payload));
  queue.work(spreadArticle, job => spread(services, job, job.payload));
  queue.work(fillFeed, job => fill(services, job));
  queue.work(makeThumbnail, job => storeThumbnailOf(services, job), {
    concurrency: THUMBNAILS_AT_A_TIME,
  });
  // One at a time: two would wait for each other's rows.
  queue.workInBatches(countViews, addUp, { size: VIEWS_IN_A_BATCH, concurrency: 1 });
  queue.work(recountTags, job => recount(services, job), { concurrency: 1 });
  queue.schedule('recount-tags', recountTags, { cron: '0 3 * * *' });
  return queue.ready();
}
