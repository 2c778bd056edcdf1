/**
 * The queue's tables and the functions that work on them, in the schema `banyan_queue` of every shard.
 *
 * Holds true here:
 * - A claim of a subscription runs under its advisory lock and reads the leases after it has the lock. Leases are added under it
 *   alone; whatever takes a delivery out of a lease changes the delivery in the same transaction. So what no lease holds
 *   is free.
 * - `turn` fences: it counts up whenever a delivery is taken from a worker, and all that a worker does names the turn.
 * - Of a key, positions become visible in their order: publishers hold the key's lock until they commit.
 * - Rows are found through a LATERAL with LIMIT: a plan that was kept from when a table was empty must not read all of it.
 * - What takes things from the dead skips rows that are locked: their transaction decides, and the next look finds them.
 */
import type pg from 'pg';
import { ID_EPOCH_MS } from '../../ids/layout.ts';

/** Rises with every change below; the functions are made anew, and tables changed, when the database has a lower one. */
export const SCHEMA_VERSION = 1;

/** Names the lock under which the schema is made. Arbitrary and ours alone. */
const LOCK = 7_233_402_118_561n;

/** First halves of advisory locks: for a claim of a subscription, a topic's keys, one key. Arbitrary and ours alone. */
const CLAIM = 1_684_118_201;
const TOPIC = 1_684_118_202;
const KEY = 1_684_118_203;

/** Of keys in one statement: with more the whole topic is locked, since a server's table of locks is small. */
const KEYS_LOCKED_SINGLY = 64;

const TABLES = `
create schema if not exists banyan_queue;
create table if not exists banyan_queue.version (version int not null);
create sequence if not exists banyan_queue.position as bigint;

create table if not exists banyan_queue.subscription (
  id int generated always as identity primary key,
  topic text not null,
  name text not null,
  max_attempts int not null,
  first_ms float8 not null,
  factor float8 not null,
  max_ms float8 not null,
  keep_results_ms float8 not null,
  declared_at timestamptz not null default now(),
  unique (topic, name)
);

create table if not exists banyan_queue.delivery (
  position bigint not null default nextval('banyan_queue.position'),
  message bigint not null,
  due timestamptz,
  subscription int not null,
  turn int not null default 0,
  priority smallint not null default 0,
  attempts smallint not null default 0,
  suspect boolean not null default false,
  key text,
  payload text not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 1000000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000,
        autovacuum_vacuum_cost_delay = 0);
create index if not exists delivery_ready on banyan_queue.delivery (subscription, priority, position) where due is null;
create index if not exists delivery_message on banyan_queue.delivery (message);
create index if not exists delivery_due on banyan_queue.delivery (subscription, due) where due is not null;
create index if not exists delivery_key on banyan_queue.delivery (subscription, key, position) where key is not null;
create index if not exists delivery_suspect on banyan_queue.delivery (subscription, position) where suspect;

create table if not exists banyan_queue.unsubscribed (
  position bigint not null default nextval('banyan_queue.position'),
  message bigint not null,
  due timestamptz,
  topic text not null,
  priority smallint not null default 0,
  key text,
  payload text not null,
  published_at timestamptz not null default now()
);
create index if not exists unsubscribed_topic on banyan_queue.unsubscribed (topic, position);

create table if not exists banyan_queue.worker (
  id bigint primary key,
  name text not null,
  lease_ms int not null,
  expires_at timestamptz not null,
  sleeps boolean not null default false,
  subscriptions int[] not null,
  started_at timestamptz not null default now()
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

create table if not exists banyan_queue.lease (
  id bigint generated always as identity primary key,
  worker bigint not null,
  subscription int not null,
  suspect boolean not null,
  keyed boolean not null,
  positions bigint[] not null,
  -- Null when all are 0.
  priorities smallint[]
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index if not exists lease_subscription on banyan_queue.lease (subscription);
create index if not exists lease_worker on banyan_queue.lease (worker);

create table if not exists banyan_queue.tally (
  subscription int not null,
  -- 0: those who are gone.
  worker bigint not null,
  completed bigint not null default 0,
  failed bigint not null default 0,
  died bigint not null default 0,
  primary key (subscription, worker)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

create table if not exists banyan_queue.dead (
  message bigint not null,
  subscription int not null,
  key text,
  priority smallint not null,
  attempts smallint not null,
  payload text not null,
  error text not null,
  died_at timestamptz not null default clock_timestamp(),
  primary key (message, subscription)
);

create table if not exists banyan_queue.effect (
  message bigint not null,
  -- topic/name: the numbers of subscriptions are each shard's own.
  subscription text not null,
  at timestamptz not null default now(),
  primary key (message, subscription)
);
create index if not exists effect_at on banyan_queue.effect (at);

create table if not exists banyan_queue.result (
  message bigint primary key,
  state text not null check (state in ('running', 'done', 'failed', 'cancelled')),
  progress real not null default 0,
  -- Of progress: a text. Of done: JSON. Of failed: the error.
  value text,
  expires_at timestamptz not null
);
create index if not exists result_expires_at on banyan_queue.result (expires_at);

create table if not exists banyan_queue.dedupe (
  topic text not null,
  key text not null,
  message bigint not null,
  until timestamptz not null,
  primary key (topic, key)
);
create index if not exists dedupe_until on banyan_queue.dedupe (until);

create table if not exists banyan_queue.schedule (
  name text primary key,
  cron text not null,
  time_zone text not null,
  topic text not null,
  payload text not null,
  missed text not null,
  next_at timestamptz not null
);
create table if not exists banyan_queue.firing (
  schedule text not null,
  at timestamptz not null,
  message bigint not null,
  fired_at timestamptz not null default now(),
  primary key (schedule, at)
);
`;

const PUBLISH = `
-- Holds keys until the transaction ends, so that their positions become visible in order.
create or replace function banyan_queue.lock_keys(p_topic text, p_keys text[]) returns void
language plpgsql as $$
declare v_locks int[];
begin
  select array_agg(distinct hashtext(k) order by hashtext(k)) into v_locks from unnest(p_keys) k where k is not null;
  if cardinality(v_locks) > ${KEYS_LOCKED_SINGLY} then
    perform pg_advisory_xact_lock(${TOPIC}, hashtext(p_topic));
  elsif v_locks is not null then
    perform pg_advisory_xact_lock_shared(${TOPIC}, hashtext(p_topic));
    -- The topic is a part of it: different topics do not wait for each other.
    perform pg_advisory_xact_lock(${KEY}, l) from (
      select distinct l # hashtext(p_topic) as l from unnest(v_locks) l order by 1) locks;
  end if;
end $$;

-- Messages that came before anybody had subscribed go to all who have by now.
create or replace function banyan_queue.adopt(p_topic text) returns bigint
language plpgsql as $$
declare v_count bigint;
begin
  with gone as (delete from banyan_queue.unsubscribed where topic = p_topic returning *)
  insert into banyan_queue.delivery (position, message, due, subscription, priority, key, payload)
  select g.position, g.message, g.due, s.id, g.priority, g.key, g.payload
  from gone g join banyan_queue.subscription s on s.topic = g.topic;
  get diagnostics v_count = row_count;
  return v_count;
end $$;

-- Tells as many of those who sleep as there is work for.
create or replace function banyan_queue.wake(p_topic text, p_count int) returns void
language plpgsql as $$
begin
  perform pg_notify('banyan_queue_' || w.id, '') from (
    select w.id from banyan_queue.worker w
    where w.sleeps and w.expires_at > clock_timestamp()
      and exists (select from banyan_queue.subscription s where s.topic = p_topic and s.id = any(w.subscriptions))
    order by random() limit p_count) w;
end $$;

-- Returns the messages' ids: of one that repeats a dedupe key that of the first.
create or replace function banyan_queue.publish(
  p_topic text, p_ids bigint[], p_payloads text[], p_keys text[], p_priorities smallint[], p_delays float8[],
  p_dedupe text[], p_dedupe_ms float8[], p_wakes boolean) returns bigint[]
language plpgsql as $$
declare
  v_ids bigint[] := p_ids;
  v_found bigint;
  v_count bigint;
begin
  if p_keys is not null then perform banyan_queue.lock_keys(p_topic, p_keys); end if;
  if p_dedupe is not null then
    for i in 1 .. cardinality(p_ids) loop
      continue when p_dedupe[i] is null;
      insert into banyan_queue.dedupe as d (topic, key, message, until)
      values (p_topic, p_dedupe[i], p_ids[i], clock_timestamp() + p_dedupe_ms[i] * interval '1 ms')
      on conflict (topic, key) do update set message = excluded.message, until = excluded.until
      where d.until <= clock_timestamp()
      returning message into v_found;
      if not found then
        select message into v_found from banyan_queue.dedupe where topic = p_topic and key = p_dedupe[i];
      end if;
      v_ids[i] := v_found;
    end loop;
  end if;
  if exists (select from banyan_queue.unsubscribed where topic = p_topic)
     and exists (select from banyan_queue.subscription where topic = p_topic) then
    perform banyan_queue.adopt(p_topic);
  end if;
  insert into banyan_queue.delivery (message, due, subscription, priority, key, payload)
  select m.id, case when m.delay > 0 then clock_timestamp() + m.delay * interval '1 ms' end,
         s.id, coalesce(m.priority, 0), m.key, m.payload
  from unnest(p_ids, p_payloads, p_keys, p_priorities, p_delays) with ordinality
         as m (id, payload, key, priority, delay, n)
  cross join (select id from banyan_queue.subscription where topic = p_topic) s
  where p_dedupe is null or v_ids[m.n] = m.id
  order by m.n;
  get diagnostics v_count = row_count;
  if v_count = 0 and not exists (select from banyan_queue.subscription where topic = p_topic) then
    insert into banyan_queue.unsubscribed (message, due, topic, priority, key, payload)
    select m.id, case when m.delay > 0 then clock_timestamp() + m.delay * interval '1 ms' end,
           p_topic, coalesce(m.priority, 0), m.key, m.payload
    from unnest(p_ids, p_payloads, p_keys, p_priorities, p_delays) with ordinality
           as m (id, payload, key, priority, delay, n)
    where p_dedupe is null or v_ids[m.n] = m.id
    order by m.n;
  elsif p_wakes then
    perform banyan_queue.wake(p_topic, least(v_count, 8)::int);
  end if;
  return case when p_dedupe is null then null else v_ids end;
end $$;
`;

/** SQL that finds the row `f.c` of each `x (p, r, …)` of a list, which are its position, its priority or null, and so on. */
const rowsOf = (subscription: string, more = '', locking = '') => `cross join lateral (
      select e.ctid as c from banyan_queue.delivery e
      where e.subscription = ${subscription} and e.due is null and e.priority = coalesce(x.r, 0) and e.position = x.p ${more}
      limit 1 ${locking}) f`;

const CLAIM_FUNCTIONS = `
-- What this worker has from now on. p_floor: nothing ready is known to stand before it; 0: look from the beginning.
create or replace function banyan_queue.claim(
  p_worker bigint, p_subscription int, p_count int, p_suspect boolean, p_floor_priority int, p_floor bigint)
returns table (lease bigint, "position" bigint, message bigint, subscription int, turn int, priority smallint,
               attempts smallint, suspect boolean, key text, payload text)
language plpgsql as $$
#variable_conflict use_column
declare
  v_leased bigint[];
  v_keys text[] := '{}';
  v_keyed bigint[];
begin
  perform pg_advisory_xact_lock(${CLAIM}, p_subscription);
  update banyan_queue.delivery d set due = null
  where d.ctid = any (array(
    select e.ctid from banyan_queue.delivery e
    where e.subscription = p_subscription and e.due <= clock_timestamp()
    order by e.due limit 1000 for update skip locked));
  select coalesce(array_agg(p), '{}'), array_agg(p) filter (where l.keyed) into v_leased, v_keyed
  from banyan_queue.lease l cross join unnest(l.positions) p where l.subscription = p_subscription;
  if v_keyed is not null then
    v_keys := array(
      select f.key from unnest(v_keyed) p cross join lateral (
        select d.key from banyan_queue.delivery d
        where d.subscription = p_subscription and d.due is null and d.priority = 0 and d.position = p limit 1) f
      where f.key is not null);
  end if;
  if p_suspect then
    return query with chosen as materialized (
      select d.* from banyan_queue.delivery d
      where d.subscription = p_subscription and d.suspect and d.due is null
        and d.position not in (select unnest(v_leased))
        and (d.key is null or (d.key not in (select unnest(v_keys)) and not exists (
          select from banyan_queue.delivery e
          where e.subscription = p_subscription and e.key = d.key and e.position < d.position)))
      order by d.position limit 1
    ), taken as (
      insert into banyan_queue.lease (worker, subscription, suspect, keyed, positions, priorities)
      select p_worker, p_subscription, true, c.key is not null, array[c.position], array[c.priority] from chosen c
      returning id
    )
    select t.id, c.position, c.message, c.subscription, c.turn, c.priority, c.attempts, c.suspect, c.key, c.payload
    from chosen c cross join taken t;
    v_keys := v_keys || array(
      select d.key from banyan_queue.lease l join banyan_queue.delivery d
        on d.subscription = p_subscription and d.suspect and d.position = l.positions[1]
      where l.worker = p_worker and l.subscription = p_subscription and l.suspect and d.key is not null);
  end if;
  return query with chosen as materialized (
    select d.* from banyan_queue.delivery d
    where d.subscription = p_subscription and d.due is null and not d.suspect
      and (d.priority, d.position) >= (p_floor_priority, p_floor)
      and d.position not in (select unnest(v_leased))
      and (d.key is null or (d.key not in (select unnest(v_keys)) and not exists (
        select from banyan_queue.delivery e
        where e.subscription = p_subscription and e.key = d.key and e.position < d.position
          and (e.due is not null or e.suspect or e.position < p_floor))))
    order by d.priority, d.position limit p_count
  ), taken as (
    insert into banyan_queue.lease (worker, subscription, suspect, keyed, positions, priorities)
    select p_worker, p_subscription, false, bool_or(c.key is not null), array_agg(c.position),
           case when bool_or(c.priority <> 0) then array_agg(c.priority) end
    from chosen c having count(*) > 0
    returning id
  )
  select t.id, c.position, c.message, c.subscription, c.turn, c.priority, c.attempts, c.suspect, c.key, c.payload
  from chosen c cross join taken t order by c.priority, c.position;
end $$;

-- Claims of several subscriptions, in the order of their numbers: so two workers never wait for each other.
create or replace function banyan_queue.take(
  p_worker bigint, p_sleeps boolean, p_done bigint[], p_subscriptions int[], p_counts int[], p_suspects boolean[],
  p_floor_priorities int[], p_floors bigint[])
returns table (lease bigint, "position" bigint, message bigint, subscription int, turn int, priority smallint,
               attempts smallint, suspect boolean, key text, payload text)
language plpgsql as $$
#variable_conflict use_column
begin
  -- Not deleted under us: whoever takes leases from the dead locks the worker first.
  perform 1 from banyan_queue.worker w where w.id = p_worker for key share;
  if not found then raise exception 'the worker is not known any more' using errcode = 'BQ001'; end if;
  update banyan_queue.worker w set sleeps = p_sleeps where w.id = p_worker and w.sleeps <> p_sleeps;
  if p_done is not null then delete from banyan_queue.lease l where l.id = any (p_done) and l.worker = p_worker; end if;
  for i in 1 .. cardinality(p_subscriptions) loop
    return query select * from banyan_queue.claim(
      p_worker, p_subscriptions[i], p_counts[i], p_suspects[i], p_floor_priorities[i], p_floors[i]);
  end loop;
end $$;

-- They leave the leases of a worker: what is in none may be had by others.
create or replace function banyan_queue.leave(p_worker bigint, p_positions bigint[]) returns void
language plpgsql as $$
begin
  update banyan_queue.lease l set
    positions = (select coalesce(array_agg(p order by n), '{}') from unnest(l.positions) with ordinality x (p, n)
                 where p <> all (p_positions)),
    priorities = case when l.priorities is null then null else
                 (select array_agg(r order by n) from unnest(l.positions, l.priorities) with ordinality x (p, r, n)
                  where p <> all (p_positions)) end
  where l.worker = p_worker and l.positions && p_positions;
  delete from banyan_queue.lease l where l.worker = p_worker and l.positions = '{}';
end $$;

create or replace function banyan_queue.count_up(
  p_worker bigint, p_subscription int, p_completed bigint, p_failed bigint, p_died bigint) returns void
language sql as $$
  insert into banyan_queue.tally as t (subscription, worker, completed, failed, died)
  values (p_subscription, p_worker, p_completed, p_failed, p_died)
  on conflict (subscription, worker) do update set completed = t.completed + excluded.completed,
    failed = t.failed + excluded.failed, died = t.died + excluded.died
$$;

create or replace function banyan_queue.keep_result(
  p_message bigint, p_state text, p_value text, p_keep_ms float8) returns void
language plpgsql as $$
begin
  insert into banyan_queue.result (message, state, progress, value, expires_at)
  values (p_message, p_state, case p_state when 'done' then 1 else 0 end, p_value,
          clock_timestamp() + p_keep_ms * interval '1 ms')
  on conflict (message) do update set state = excluded.state, value = excluded.value,
    progress = case excluded.state when 'done' then 1 else banyan_queue.result.progress end,
    expires_at = excluded.expires_at;
  perform pg_notify('banyan_queue_results', p_message::text);
end $$;

-- Of one subscription. Returns the positions that were not this worker's any more.
create or replace function banyan_queue.complete(
  p_worker bigint, p_subscription int, p_positions bigint[], p_priorities smallint[], p_turns int[],
  p_messages bigint[], p_results text[], p_guarded boolean) returns bigint[]
language plpgsql as $$
declare
  v_gone bigint[];
  v_keep_ms float8;
begin
  with gone as (
    delete from banyan_queue.delivery d using unnest(p_positions, p_priorities, p_turns) x (p, r, t)
    ${rowsOf('p_subscription')}
    where d.ctid = f.c and d.position = x.p and (d.turn = coalesce(x.t, 0) or not p_guarded)
    returning d.position)
  select coalesce(array_agg(g.position), '{}') into v_gone from gone g;
  perform banyan_queue.count_up(p_worker, p_subscription, cardinality(v_gone), 0, 0);
  if p_messages is not null then
    select keep_results_ms into v_keep_ms from banyan_queue.subscription s where s.id = p_subscription;
    perform banyan_queue.keep_result(x.m, 'done', x.v, v_keep_ms)
    from unnest(p_positions, p_messages, p_results) x (p, m, v) where x.p = any (v_gone);
  end if;
  if cardinality(v_gone) = cardinality(p_positions) then return null; end if;
  return array(select p from unnest(p_positions) p where p <> all (v_gone));
end $$;

-- Deliveries of one subscription failed. p_retry_ms null: a dead letter.
create or replace function banyan_queue.fail(
  p_worker bigint, p_subscription int, p_positions bigint[], p_priorities smallint[], p_turns int[],
  p_errors text[], p_retry_ms float8[]) returns bigint[]
language plpgsql as $$
declare
  v_again bigint[];
  v_dead bigint[];
  v_messages bigint[];
  v_errors text[];
begin
  with again as (
    update banyan_queue.delivery d set attempts = d.attempts + 1, turn = d.turn + 1, suspect = false,
      due = clock_timestamp() + x.ms * interval '1 ms'
    from unnest(p_positions, p_priorities, p_turns, p_retry_ms) x (p, r, t, ms)
    ${rowsOf('p_subscription')}
    where d.ctid = f.c and d.position = x.p and d.turn = coalesce(x.t, 0) and x.ms is not null
    returning d.position)
  select coalesce(array_agg(a.position), '{}') into v_again from again a;
  with died as (
    delete from banyan_queue.delivery d
    using unnest(p_positions, p_priorities, p_turns, p_retry_ms, p_errors) x (p, r, t, ms, e)
    ${rowsOf('p_subscription')}
    where d.ctid = f.c and d.position = x.p and d.turn = coalesce(x.t, 0) and x.ms is null
    returning d.*, x.e as error)
  , kept as (
    insert into banyan_queue.dead as k (message, subscription, key, priority, attempts, payload, error)
    select message, subscription, key, priority, attempts + 1, payload, left(error, 4000) from died
    on conflict (message, subscription) do update set attempts = excluded.attempts, error = excluded.error, died_at = excluded.died_at
    returning 1)
  select coalesce(array_agg(d.position), '{}'), array_agg(d.message), array_agg(left(d.error, 4000))
  into v_dead, v_messages, v_errors from died d;
  perform banyan_queue.keep_result(x.m, 'failed', x.e, s.keep_results_ms)
  from unnest(v_messages, v_errors) x (m, e)
  join banyan_queue.subscription s on s.id = p_subscription and s.keep_results_ms > 0;
  perform banyan_queue.leave(p_worker, p_positions);
  perform banyan_queue.count_up(p_worker, p_subscription, 0, cardinality(v_again), cardinality(v_dead));
  return array(select p from unnest(p_positions) p where p <> all (v_again || v_dead));
end $$;

create or replace function banyan_queue.hand_back(
  p_worker bigint, p_subscription int, p_positions bigint[], p_priorities smallint[], p_turns int[]) returns void
language plpgsql as $$
declare v_back bigint[];
begin
  -- One that is locked is in the transaction that completes it; if that fails the lease runs out.
  with back as (
    update banyan_queue.delivery d set turn = d.turn + 1
    where d.ctid = any (array(
      select f.c from unnest(p_positions, p_priorities, p_turns) x (p, r, t)
      ${rowsOf('p_subscription', 'and e.turn = coalesce(x.t, 0)', 'for update skip locked')}))
    returning d.position)
  select array_agg(b.position) into v_back from back b;
  if v_back is not null then perform banyan_queue.leave(p_worker, v_back); end if;
  perform banyan_queue.wake(s.topic, 1) from banyan_queue.subscription s where s.id = p_subscription;
end $$;

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

-- Takes what dead and frozen workers had in hand. Returns how many deliveries.
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
        update banyan_queue.delivery d set turn = d.turn + 1, attempts = d.attempts + 1,
          due = clock_timestamp() + least(l.first_ms * l.factor ^ d.attempts, l.max_ms) * interval '1 ms'
        where d.ctid = any (v_ctids);
      else
        update banyan_queue.delivery d set turn = d.turn + 1, suspect = true where d.ctid = any (v_ctids);
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
  perform banyan_queue.adopt(t.topic) from (
    select distinct u.topic from banyan_queue.unsubscribed u join banyan_queue.subscription s on s.topic = u.topic) t;
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

/** SQL that makes everything in the database that it is run in; may be run again, also over an older version. */
export function queueSchema(): string {
  return `${TABLES}${PUBLISH}${CLAIM_FUNCTIONS}
delete from banyan_queue.version;
insert into banyan_queue.version values (${SCHEMA_VERSION});`;
}

/** Makes the schema unless it is there. Looks first: an account that may only use it need not be allowed to make it. */
export async function ensureQueueSchema(database: Pick<pg.ClientBase, 'query'>): Promise<void> {
  const { rows } = await database.query<{ found: boolean }>(
    `select to_regclass('banyan_queue.version') is not null as found`,
  );
  if (rows[0]?.found) {
    const found = await database.query<{ version: number }>(
      'select version from banyan_queue.version',
    );
    if ((found.rows[0]?.version ?? 0) >= SCHEMA_VERSION) return;
  }
  await database.query(`begin; select pg_advisory_xact_lock(${LOCK}); ${queueSchema()} commit`);
}
