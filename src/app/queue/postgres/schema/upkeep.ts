/** What takes from the dead, takes back, deletes what is old, and counts. */
import { ID_EPOCH_MS } from '../../../ids/layout.ts';
import { CLAIM, rowsOf } from './parts.ts';

export const UPKEEP = `
-- A worker that has nothing in hand is gone.
create or replace function banyan_queue.forget(p_worker bigint) returns void
language plpgsql as $$
begin
  insert into banyan_queue.tally as t (subscription, worker, completed, failed, died)
  select subscription, 0, completed, failed, died from banyan_queue.tally where worker = p_worker order by subscription
  on conflict (subscription, worker) do update set completed = t.completed + excluded.completed,
    failed = t.failed + excluded.failed, died = t.died + excluded.died;
  delete from banyan_queue.tally where worker = p_worker;
  delete from banyan_queue.lease where worker = p_worker;
  delete from banyan_queue.worker where id = p_worker;
end $$;

-- Takes what dead and frozen workers had in hand, and what was left behind without a subscription. Returns how many of the first.
create or replace function banyan_queue.reap() returns int
language plpgsql as $$
declare
  w record;
  l record;
  v_total int := 0;
  v_ctids tid[];
  v_taken bigint[];
  v_left bigint[];
  v_dead bigint[];
begin
  for w in select id from banyan_queue.worker where expires_at < clock_timestamp() for update skip locked loop
    for l in select e.*, s.topic, s.max_attempts, s.first_ms, s.factor, s.max_ms, s.keep_results_ms
             from banyan_queue.lease e join banyan_queue.subscription s on s.id = e.subscription
             where e.worker = w.id for update of e loop
      select array_agg(d.c), coalesce(array_agg(d.p), '{}') into v_ctids, v_taken from (
        select f.c, x.p from unnest(l.positions, l.priorities) x (p, r)
        ${rowsOf('l.subscription', '', 'for update skip locked')}) d;
      v_total := v_total + cardinality(v_taken);
      if l.suspect then
        with died as (
          delete from banyan_queue.delivery d where d.ctid = any (v_ctids) and d.attempts + 1 >= l.max_attempts
          returning d.*)
        , kept as (
          insert into banyan_queue.dead (message, subscription, key, priority, attempts, payload, error)
          select message, subscription, key, priority, attempts + 1, payload,
                 'Its worker died, or froze, with it in hand'
          from died on conflict (message, subscription)
          do update set attempts = excluded.attempts, error = excluded.error, died_at = excluded.died_at)
        select coalesce(array_agg(message), '{}') into v_dead from died;
        if cardinality(v_dead) > 0 then
          perform banyan_queue.count_up(0, l.subscription, 0, 0, cardinality(v_dead));
          if l.keep_results_ms > 0 then
            perform banyan_queue.keep_result(m, 'failed', 'Its worker died, or froze, with it in hand', l.keep_results_ms)
            from unnest(v_dead) m;
          end if;
        end if;
        update banyan_queue.delivery d set turn = d.turn + 1, attempts = d.attempts + 1, alone = true,
          due = clock_timestamp() + least(l.first_ms * l.factor ^ d.attempts, l.max_ms) * interval '1 ms'
        where d.ctid = any (v_ctids);
      else
        update banyan_queue.delivery d set turn = d.turn + 1, suspect = true, alone = d.suspect where d.ctid = any (v_ctids);
      end if;
      -- Those that are locked stay in the lease until the next look.
      v_left := array(
        select x.p from unnest(l.positions, l.priorities) x (p, r)
        ${rowsOf('l.subscription')}
        where x.p <> all (v_taken));
      if cardinality(v_left) = 0 then
        delete from banyan_queue.lease e where e.id = l.id;
      else
        perform banyan_queue.leave(w.id, array(select p from unnest(l.positions) p where p <> all (v_left)));
      end if;
      perform banyan_queue.wake(l.topic, 1);
    end loop;
    if not exists (select from banyan_queue.lease e where e.worker = w.id) then
      perform banyan_queue.forget(w.id);
    end if;
  end loop;
  -- Of a publisher who did not see the first subscription yet, and committed after that had looked for what waits for it.
  perform banyan_queue.adopt(t.topic) from (
    select distinct s.topic from banyan_queue.subscription s
    where exists (select from banyan_queue.unsubscribed u where u.topic = s.topic)) t;
  return v_total;
end $$;

-- Nobody may have it in hand. Returns whether there was one.
create or replace function banyan_queue.cancel(p_message bigint) returns boolean
language plpgsql as $$
declare
  d record;
  v_any boolean := false;
begin
  for d in select e.position, e.subscription, s.keep_results_ms from banyan_queue.delivery e
           join banyan_queue.subscription s on s.id = e.subscription
           where e.message = p_message order by e.subscription loop
    perform pg_advisory_xact_lock(${CLAIM}, d.subscription);
    continue when exists (
      select from banyan_queue.lease l where l.subscription = d.subscription and d.position = any (l.positions));
    delete from banyan_queue.delivery e where e.message = p_message and e.subscription = d.subscription;
    if found then
      v_any := true;
      if d.keep_results_ms > 0 then
        perform banyan_queue.keep_result(p_message, 'cancelled', null, d.keep_results_ms);
      end if;
    end if;
  end loop;
  delete from banyan_queue.unsubscribed u where u.message = p_message;
  return v_any or found;
end $$;

-- Deletes what has been kept for long enough, in portions.
create or replace function banyan_queue.tidy() returns void
language plpgsql as $$
begin
  delete from banyan_queue.effect where ctid = any (array(
    select ctid from banyan_queue.effect where at < now() - interval '7 days' limit 5000));
  delete from banyan_queue.trial where ctid = any (array(
    select ctid from banyan_queue.trial where at < now() - interval '7 days' limit 5000));
  delete from banyan_queue.result where ctid = any (array(
    select ctid from banyan_queue.result where expires_at < now() limit 5000));
  delete from banyan_queue.dedupe where ctid = any (array(
    select ctid from banyan_queue.dedupe where until < now() limit 5000 for update skip locked));
  delete from banyan_queue.dead where ctid = any (array(
    select ctid from banyan_queue.dead where died_at < now() - interval '30 days' limit 5000));
  delete from banyan_queue.unsubscribed where ctid = any (array(
    select ctid from banyan_queue.unsubscribed where published_at < now() - interval '14 days' limit 5000
    for update skip locked));
  delete from banyan_queue.firing where fired_at < now() - interval '30 days';
end $$;

-- What there is of each subscription, and of topics without one. Cheap: counts stop at p_limit.
create or replace function banyan_queue.stats(p_limit int)
returns table (topic text, subscription text, ready bigint, delayed bigint, leased bigint, oldest_ms float8,
               completed bigint, failed bigint, died bigint, dead_letters bigint, workers bigint)
language sql stable as $$
  select s.topic, s.name,
    (select count(*) from (select from banyan_queue.delivery d where d.subscription = s.id and d.due is null limit p_limit) x),
    (select count(*) from (select from banyan_queue.delivery d where d.subscription = s.id and d.due is not null limit p_limit) x),
    (select coalesce(sum(cardinality(l.positions)), 0) from banyan_queue.lease l where l.subscription = s.id),
    (select extract(epoch from clock_timestamp())::float8 * 1000 - ((d.message >> 22) + ${ID_EPOCH_MS})
     from banyan_queue.delivery d where d.subscription = s.id and d.due is null
     order by d.priority, d.position limit 1),
    coalesce(t.completed, 0)::bigint, coalesce(t.failed, 0)::bigint, coalesce(t.died, 0)::bigint,
    (select count(*) from banyan_queue.dead k where k.subscription = s.id),
    (select count(*) from banyan_queue.worker w where s.id = any (w.subscriptions) and w.expires_at > clock_timestamp())
  from banyan_queue.subscription s
  left join lateral (select sum(t.completed) as completed, sum(t.failed) as failed, sum(t.died) as died
                     from banyan_queue.tally t where t.subscription = s.id) t on true
  union all
  select u.topic, null, count(*), 0, 0,
    extract(epoch from clock_timestamp() - min(u.published_at))::float8 * 1000, 0, 0, 0, 0, 0
  from (select * from banyan_queue.unsubscribed limit p_limit) u group by u.topic
  order by 1, 2
$$;
`;
