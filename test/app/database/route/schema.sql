-- The database that the cases speak of. Its search path is app, public.
create schema app;
set search_path = app, public;
create schema hidden;

create table app.users (id bigint primary key, name text, manager_id bigint);
create table app.articles (
  id bigint primary key,
  author_id bigint references app.users,
  title text,
  tags text[],
  details jsonb,
  created_at timestamptz default now()
);
create table public.tags (name text primary key, uses int);
create table public."Mixed Case" (id int);
create table hidden.secrets (id int);
create unlogged table app.counters (name text, value int);
create unlogged table hidden.tags (name text);
create sequence app.ids;
insert into app.users select n, 'user ' || n, n / 2 from generate_series(1, 20) n;
insert into app.articles
  select n, 1 + n % 20, 'title ' || n, array['a', 'b'], '{"views": 3}' from generate_series(1, 100) n;
insert into public.tags values ('a', 1), ('b', 2);

-- Functions: what counts is what they are marked as.
create function app.bump() returns bigint language sql volatile as $$ select nextval('app.ids') $$;
create function app.peek() returns bigint language sql stable as $$ select count(*) from app.users $$;
create function app.twice(int) returns int language sql immutable as $$ select $1 * 2 $$;
create function app.lies() returns bigint language sql stable as $$ select app.bump() $$;
create function app.mix(int) returns int language sql stable as $$ select $1 $$;
create function app.mix(int, int) returns int language sql volatile as $$ select $1 + $2 $$;
create function app.either(int) returns int language sql stable as $$ select $1 $$;
create function app.either(text) returns int language sql volatile as $$ select 1 $$;
create function app.optional(a int, b int default 1, c int default 2) returns int language sql volatile as $$ select a $$;
create function app.many(variadic int[]) returns int language sql volatile as $$ select 1 $$;
create function app.rows_volatile() returns setof app.users language sql volatile as $$ select * from app.users $$;
create function app.rows_stable() returns setof app.users language sql stable as $$ select * from app.users $$;
create function app.initcap(bool) returns text language sql volatile as $$ select 'x' $$;
create function app.full_name(app.users) returns text language sql volatile as $$ select $1.name $$;
create function app.short_name(app.users) returns text language sql stable as $$ select $1.name $$;
create function hidden.bump() returns int language sql volatile as $$ select 1 $$;
create function hidden.calm() returns int language sql stable as $$ select 1 $$;
create function app.json_lookup() returns int language sql volatile as $$ select 1 $$;
create procedure app.run() language sql as $$ insert into app.users values (default) $$;

-- Functions that no call shows.
create function app.check_volatile(int) returns bool language plpgsql volatile as $$ begin return true; end $$;
create domain app.checked as int check (app.check_volatile(value));
create domain app.positive as int check (value > 0);
create domain app.checked_too as app.checked;
create type app.pair as (a int, b app.checked);
create type app.mood as enum ('good', 'bad');
create function app.takes_checked(app.checked) returns int language sql immutable as $$ select 1 $$;
create function app.compare_volatile(text, text) returns bool language sql volatile as $$ select true $$;
create function app.compare_calm(text, text) returns bool language sql immutable as $$ select true $$;
create operator app.=== (function = app.compare_volatile, leftarg = text, rightarg = text);
create operator app.<=> (function = app.compare_calm, leftarg = text, rightarg = text);
create function app.add_volatile(int, int) returns int language sql volatile as $$ select 1 $$;
create aggregate app.total_volatile(int) (sfunc = app.add_volatile, stype = int, initcond = '0');
create aggregate app.total_calm(int) (sfunc = int4pl, stype = int, initcond = '0');

-- Views: what they run counts, at any depth.
create view app.authors as select u.id, u.name, count(*) as articles
  from app.users u join app.articles a on a.author_id = u.id group by u.id;
create view app.numbered as select nextval('app.ids') as number, id from app.users;
create view app.numbered_too as select * from app.numbered where id > 3;
create view app.dice as select random() as value;
create view app.load as select count(*) from pg_stat_activity;
create view app.settings as select name, setting from pg_settings;
create view app.current_tenant as select current_setting('app.tenant', true) as tenant;
create view app.counts as select * from app.counters;
create view app.compared as select name === 'x' as same from app.users;
create view app.checked_ids as select id::int::app.checked as id from app.users;
create view app.totals as select app.total_volatile(1) as total;
create view app.calm_totals as select app.total_calm(id::int) as total from app.users;
create view app.locking as select id from app.users for update;
create view app.locking_too as select count(*) from app.locking;
create view app.calls_row_function as select u.full_name from app.users u;
create materialized view app.frozen as select app.bump() as value;
create view app.chain(n) as with recursive c(n) as (select 1 union all select n + 1 from c where n < 5) select n from c;

-- Partitions and children are read with their parent.
create table app.events (id int, at date) partition by range (at);
create table app.events_old partition of app.events for values from ('2020-01-01') to ('2021-01-01');
create table app.logs (id int, at date) partition by range (at);
create unlogged table app.logs_old partition of app.logs for values from ('2020-01-01') to ('2021-01-01');
create table app.parents (id int);
create unlogged table app.children () inherits (app.parents);

create foreign data wrapper nowhere;
create server nowhere foreign data wrapper nowhere;
create foreign table app.remote (id int) server nowhere;

-- Policies run with every read of their table.
create table app.tenants (id int, tenant text);
alter table app.tenants enable row level security;
create policy by_tenant on app.tenants using (tenant = current_setting('app.tenant', true));
create table app.audited (id int);
alter table app.audited enable row level security;
create policy audit on app.audited for select using (app.bump() > 0);
create table app.audited_writes (id int);
alter table app.audited_writes enable row level security;
create policy audit on app.audited_writes for insert with check (app.bump() > 0);
create table app.policy_off (id int);
create policy audit on app.policy_off using (app.bump() > 0);
create view app.audited_ids as select id from app.audited;
create table app.policy_reads_view (id int);
alter table app.policy_reads_view enable row level security;
create policy listed on app.policy_reads_view using (id in (select number from app.numbered));
create view app.remote_ids as select id from app.remote;
create view app.remote_numbered as select id, nextval('app.ids') as number from app.remote;
create view app.load_numbered as select nextval('app.ids') as number, pid from pg_stat_activity;
