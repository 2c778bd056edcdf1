/** What several of the schema's parts need. */

/** First halves of advisory locks: for a claim of a subscription, a topic's keys, one key. Arbitrary and ours alone. */
export const CLAIM = 1_684_118_201;
export const TOPIC = 1_684_118_202;
export const KEY = 1_684_118_203;

/** SQL that finds the row `f.c` of each `x (p, r, …)` of a list, which are its position, its priority or null, and so on. */
export const rowsOf = (subscription: string, more = '', locking = '') => `cross join lateral (
      select e.ctid as c from banyan_queue.delivery e
      where e.subscription = ${subscription} and e.due is null and e.priority = coalesce(x.r, 0) and e.position = x.p ${more}
      limit 1 ${locking}) f`;
