/** What publishes: in one statement, with the keys' locks, and with who sleeps woken. */
import { KEY, TOPIC } from './parts.ts';

/** Of keys in one statement: with more the whole topic is locked, since a server's table of locks is small. */
const KEYS_LOCKED_SINGLY = 64;

export const PUBLISH = `
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
  v_subscriptions int[];
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
  -- Once: a first subscription that comes between two looks would be none for the first, and one for the second.
  v_subscriptions := array(select id from banyan_queue.subscription where topic = p_topic);
  if v_subscriptions <> '{}' and exists (select from banyan_queue.unsubscribed where topic = p_topic) then
    perform banyan_queue.adopt(p_topic);
  end if;
  insert into banyan_queue.delivery (message, due, subscription, priority, key, payload)
  select m.id, case when m.delay > 0 then clock_timestamp() + m.delay * interval '1 ms' end,
         s.id, coalesce(m.priority, 0), m.key, m.payload
  from unnest(p_ids, p_payloads, p_keys, p_priorities, p_delays) with ordinality
         as m (id, payload, key, priority, delay, n)
  cross join unnest(v_subscriptions) s (id)
  where p_dedupe is null or v_ids[m.n] = m.id
  order by m.n;
  get diagnostics v_count = row_count;
  if v_subscriptions = '{}' then
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
