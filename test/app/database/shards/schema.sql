create type mood as enum ('sad', 'ok', 'happy');
create table users (
  id bigint primary key,
  name text not null,
  nick varchar(20),
  age int,
  score numeric(10, 2),
  karma float8,
  ratio real,
  active boolean,
  created timestamptz,
  born date,
  tags text[],
  doc jsonb,
  code text collate "C",
  feeling mood,
  pause interval
);
create table posts (
  user_id bigint not null,
  id int not null,
  title text,
  views int,
  price numeric,
  at timestamp,
  country text,
  primary key (user_id, id)
);
create table comments (
  user_id int not null,
  id bigint not null,
  post_id int,
  body text,
  primary key (user_id, id)
);
create table likes (
  post_id int not null,
  user_id bigint not null,
  primary key (post_id, user_id)
);
create table accounts (
  owner text primary key,
  balance bigint not null default 0
);
create table devices (
  id uuid primary key default gen_random_uuid(),
  kind text not null,
  note text
);
create table tickets (
  id bigserial primary key,
  title text
);
create table countries (
  code text primary key,
  name text not null,
  people int
);
create table tags (
  id serial primary key,
  name text not null unique,
  made timestamptz not null default now(),
  token uuid default gen_random_uuid()
);
create table settings (
  key text primary key,
  value text
);
create sequence counter;
create view adults as select id, name, age from users where age >= 18;
create view totals as select user_id, count(*) as posts, sum(views) as views from posts group by user_id;
create view biggest as select max(views) as views from posts;
create function half(x int) returns int language sql immutable as 'select x / 2';
create function anything(x int) returns int language plpgsql volatile as 'begin return x; end';
create aggregate product(int) (sfunc = int4mul, stype = int, initcond = '1');
