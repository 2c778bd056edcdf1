/** What becomes of deliveries that a worker has: done, failed, handed back. */
import { rowsOf } from './parts.ts';

export const SETTLES = `
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
    update banyan_queue.delivery d set attempts = d.attempts + 1, turn = d.turn + 1, suspect = false, alone = false,
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
`;
