/** The queue's tables. */

export const TABLES = `
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
  -- Of a suspect: its worker had it among several, or by itself, and died; it is given out by itself.
  alone boolean not null default false,
  key text,
  payload text not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 1000000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000,
        autovacuum_vacuum_cost_delay = 0);
-- Of before version 4.
alter table banyan_queue.delivery add column if not exists alone boolean not null default false;
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
  -- Of one suspect, the only one in its process.
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

-- How often suspects of RabbitMQ's were begun by themselves; 0: among others alone.
create table if not exists banyan_queue.trial (
  message bigint not null,
  -- topic/name
  subscription text not null,
  trials int not null,
  at timestamptz not null default now(),
  primary key (message, subscription)
);
create index if not exists trial_at on banyan_queue.trial (at);

-- Messages that went over RabbitMQ of late, and in how many bundles.
create table if not exists banyan_queue.bundling (
  topic text primary key,
  bundles float8 not null,
  messages float8 not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

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
