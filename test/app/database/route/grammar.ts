/**
 * Generates statements over schema.sql that PostgreSQL accepts, with the traps in any place where an
 * expression or a table may stand.
 */
import fc from 'fast-check';

/** Of type bigint, over a row `u` of users. What is last does not belong on a standby. */
const leaf = fc.oneof(
  {
    weight: 9,
    arbitrary: fc.constantFrom(
      'u.id',
      '1',
      'length(u.name)',
      'twice(2)',
      'peek()',
      'mix(1)',
      '(random() * 0)::int',
      '(select count(*) from tags)',
      'hidden.calm()',
    ),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      "nextval('ids')",
      "setval('ids', 9)",
      'bump()',
      'mix(1, 2)',
      'optional(1)',
      'takes_checked(1)',
      '3::checked::int',
      'txid_current()',
      'pg_backend_pid()',
      'length(u.full_name)',
      "('a' === 'b')::int",
      'pg_try_advisory_xact_lock(1)::int',
    ),
  },
);

const { expression } = fc.letrec<{ expression: string }>(tie => ({
  expression: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    leaf,
    fc
      .tuple(tie('expression'), fc.constantFrom('+', '-', '*'), tie('expression'))
      .map(parts => `(${parts.join(' ')})`),
    tie('expression').map(e => `coalesce(${e}, 0)`),
    tie('expression').map(e => `case when u.id > 3 then ${e} else 0 end`),
    tie('expression').map(e => `(array[${e}])[1]`),
    tie('expression').map(e => `(select max(v.id + ${e}) from users v where v.id = u.id)`),
    tie('expression').map(e => `greatest(1, ${e})`),
    tie('expression').map(e => `(${e})::text::bigint`),
  ),
}));

/** Something to select from that has a column `id`. */
const table = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.constantFrom(
      'users',
      'app.articles',
      'authors',
      'events',
      'calm_totals c(id)',
      'hidden.secrets',
      'generate_series(1, 3) g(id)',
      'rows_stable()',
    ),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      'counts c(id)',
      'numbered',
      'numbered_too',
      'logs',
      'parents',
      'rows_volatile()',
      'counters c(id)',
      'hidden.tags t(id)',
      'audited_ids',
      'load l(id)',
      'pg_stat_activity p(id)',
      'checked_ids',
    ),
  },
);

const condition = fc.oneof(
  expression.map(e => `${e} > 0`),
  expression.map(e => `u.id in (1, ${e})`),
  expression.map(e => `${e} between 0 and 5`),
  expression.map(e => `u.id = any (array[${e}])`),
  table.map(t => `exists (select from ${t})`),
  fc.constantFrom("u.name like 'u%'", 'not u.id is null', "u.name <=> 'x'", "u.name === 'x'"),
);

const query = fc
  .record({
    list: fc.array(expression, { minLength: 1, maxLength: 3 }),
    other: fc.option(table, { nil: undefined, freq: 2 }),
    where: fc.option(condition, { nil: undefined, freq: 2 }),
    lock: fc.boolean().chain(yes => fc.constantFrom('', '', '', yes ? ' for update of u' : '')),
    cte: fc.option(table, { nil: undefined, freq: 3 }),
    shape: fc.constantFrom('plain', 'count', 'union', 'nested'),
  })
  .map(({ list, other, where, lock, cte, shape }) => {
    const head = cte ? `with c as (select count(*) as n from ${cte}) ` : '';
    const from = `from users u${cte ? ' cross join c' : ''}${other ? ` left join lateral (select 1 as one from ${other} limit 1) o on true` : ''}`;
    const filter = where ? ` where ${where}` : '';
    const columns = list.join(', ');
    switch (shape) {
      case 'count':
        return `${head}select count(*), sum(${list[0]}) ${from}${filter}`;
      case 'union':
        return `${head}select ${list[0]} as x ${from}${filter} union all select 1 order by 1`;
      case 'nested':
        return `select * from (${head}select ${columns} ${from}${filter} order by u.id limit 5${lock}) as nested`;
      default:
        return `${head}select ${columns} ${from}${filter} order by u.id${lock}`;
    }
  });

export const statements = fc.oneof(
  { weight: 8, arbitrary: query },
  { weight: 1, arbitrary: query.map(q => `explain (costs off) ${q}`) },
  {
    weight: 1,
    arbitrary: query.map(
      q => `explain (analyze, costs off, timing off, summary off, buffers off) ${q}`,
    ),
  },
  { weight: 1, arbitrary: query.map(q => `copy (${q}) to stdout`) },
  { weight: 1, arbitrary: query.map(q => `declare x cursor for ${q}`) },
  { weight: 1, arbitrary: condition.map(c => `delete from users u where ${c}`) },
  {
    weight: 1,
    arbitrary: condition.map(
      c =>
        `with gone as (update users u set name = 'x' where ${c} returning u.id) select * from gone`,
    ),
  },
);
