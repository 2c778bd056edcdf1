/** What gives deliveries to a worker. */
import { CLAIM } from './parts.ts';

export const CLAIMS = `
-- What this worker has from now on. p_floor: nothing ready is known to stand before it; 0: look from the beginning.
-- p_suspects: how many of them may be suspects, when the process has none. Of one its lease says so: should its worker die, that is
-- counted. One that a worker died with since it is suspect is given out by itself.
create or replace function banyan_queue.claim(
  p_worker bigint, p_subscription int, p_count int, p_suspects int, p_floor_priority int, p_floor bigint)
returns table (lease bigint, "position" bigint, message bigint, subscription int, turn int, priority smallint,
               attempts smallint, suspect boolean, key text, payload text)
language plpgsql as $$
#variable_conflict use_column
declare
  v_leased bigint[];
  v_keys text[] := '{}';
  v_keyed bigint[];
  v_got int := 0;
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
  if p_suspects > 0 then
    return query with found as materialized (
      select d.* from banyan_queue.delivery d
      where d.subscription = p_subscription and d.suspect and d.due is null
        and d.position not in (select unnest(v_leased))
        and (d.key is null or (d.key not in (select unnest(v_keys)) and not exists (
          select from banyan_queue.delivery e
          where e.subscription = p_subscription and e.key = d.key and e.position < d.position)))
      order by d.position limit least(p_suspects, p_count)
    ), chosen as materialized (
      select f.* from found f cross join (select alone, position from found order by position limit 1) first
      where f.position = first.position or not (f.alone or first.alone)
    ), taken as (
      insert into banyan_queue.lease (worker, subscription, suspect, keyed, positions, priorities)
      select p_worker, p_subscription, count(*) = 1, bool_or(c.key is not null), array_agg(c.position),
             case when bool_or(c.priority <> 0) then array_agg(c.priority) end
      from chosen c having count(*) > 0
      returning id
    )
    select t.id, c.position, c.message, c.subscription, c.turn, c.priority, c.attempts, c.suspect, c.key, c.payload
    from chosen c cross join taken t;
    get diagnostics v_got = row_count;
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
    order by d.priority, d.position limit p_count - v_got
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
  p_worker bigint, p_sleeps boolean, p_done bigint[], p_subscriptions int[], p_counts int[], p_suspects int[],
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
`;
