/**
 * Generates statements over schema.sql, together with whether the order of their rows is determined. Some are of
 * the refused kind, on purpose: what is refused must not have been sent, and what is answered must be right.
 */
import type fc from 'fast-check';
import * as check from 'fast-check';

export interface Generated {
  readonly text: string;
  readonly values: unknown[];
  /** The order of the rows is determined. */
  readonly isOrdered: boolean;
  /** What it writes, to be compared afterwards. */
  readonly writes: readonly string[];
}

type Draw = fc.GeneratorValue;

interface Column {
  readonly name: string;
  readonly type: 'int' | 'text' | 'bool' | 'num' | 'float' | 'time' | 'date' | 'uuid';
}

interface Table {
  readonly name: string;
  readonly columns: readonly Column[];
  /** Determines a row. */
  readonly identity: readonly string[];
  readonly key: string | undefined;
  /** Tables that may be joined to it on the key. */
  readonly family: 'person' | 'post' | 'owner' | 'device' | 'everywhere' | 'home';
}

const columns = (list: string): Column[] =>
  list.split(' ').map(word => {
    const [name, type] = word.split(':');
    return { name: name!, type: type as Column['type'] };
  });

export const TABLES: readonly Table[] = [
  {
    name: 'users',
    columns: columns(
      'id:int name:text nick:text age:int score:num karma:float active:bool created:time born:date code:text',
    ),
    identity: ['id'],
    key: 'id',
    family: 'person',
  },
  {
    name: 'posts',
    columns: columns('user_id:int id:int title:text views:int price:num at:time country:text'),
    identity: ['user_id', 'id'],
    key: 'user_id',
    family: 'person',
  },
  {
    name: 'comments',
    columns: columns('user_id:int id:int post_id:int body:text'),
    identity: ['user_id', 'id'],
    key: 'user_id',
    family: 'person',
  },
  {
    name: 'likes',
    columns: columns('post_id:int user_id:int'),
    identity: ['post_id', 'user_id'],
    key: 'post_id',
    family: 'post',
  },
  {
    name: 'accounts',
    columns: columns('owner:text balance:int'),
    identity: ['owner'],
    key: 'owner',
    family: 'owner',
  },
  {
    name: 'devices',
    columns: columns('id:uuid kind:text note:text'),
    identity: ['id'],
    key: 'id',
    family: 'device',
  },
  {
    name: 'countries',
    columns: columns('code:text name:text people:int'),
    identity: ['code'],
    key: undefined,
    family: 'everywhere',
  },
  {
    name: 'settings',
    columns: columns('key:text value:text'),
    identity: ['key'],
    key: undefined,
    family: 'home',
  },
];

export const WORDS = ['a', 'B', 'ab', 'Ä', 'z', 'Z', '', 'é', 'ß', '_x', "it's", 'DE', 'FR', 'US'];
export const PEOPLE = 24;
export const UUIDS = Array.from(
  { length: 12 },
  (_, i) => `00000000-0000-4000-8000-0000000000${(i * 17).toString(16).padStart(2, '0')}`,
);

/** Draws from fast-check's generator, and collects the parameters. */
class Builder {
  readonly values: unknown[] = [];
  readonly #draw: Draw;
  #aliases = 0;

  constructor(draw: Draw) {
    this.#draw = draw;
  }

  /** With a chance of one in `of`. */
  chance(of: number): boolean {
    return this.#draw(check.nat, { max: of - 1 }) === 0;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.#draw(check.nat, { max: items.length - 1 })]!;
  }

  number(max: number): number {
    return this.#draw(check.nat, { max });
  }

  alias(): string {
    this.#aliases++;
    return `t${this.#aliases}`;
  }

  /** A parameter or a literal. */
  value(type: Column['type']): string {
    const [value, literal] = this.#constant(type);
    if (this.chance(3)) {
      this.values.push(value);
      const cast = CASTS[type];
      return `$${this.values.length}::${cast}`;
    }
    return literal;
  }

  /** A parameter whose type PostgreSQL has to find. */
  bare(type: Column['type']): string {
    const [value, literal] = this.#constant(type);
    if (this.chance(2)) {
      this.values.push(value);
      return `$${this.values.length}`;
    }
    return literal;
  }

  parameter(value: unknown): string {
    this.values.push(value);
    return `$${this.values.length}`;
  }

  #constant(type: Column['type']): [unknown, string] {
    switch (type) {
      case 'int': {
        const value = this.number(PEOPLE + 2);
        return [value, String(value)];
      }
      case 'text': {
        const word = this.pick(WORDS);
        return [word, `'${word.replaceAll("'", "''")}'`];
      }
      case 'bool': {
        const value = this.chance(2);
        return [value, String(value)];
      }
      case 'num':
      case 'float': {
        const value = this.number(40) / 4;
        return [value, `${value}`];
      }
      case 'time': {
        const text = `2024-01-0${1 + this.number(8)} 0${this.number(9)}:00:00`;
        return [text, `'${text}'`];
      }
      case 'date': {
        const text = `2024-01-0${1 + this.number(8)}`;
        return [text, `'${text}'`];
      }
      case 'uuid': {
        const text = this.pick(UUIDS);
        return [text, `'${text}'`];
      }
    }
  }
}

const CASTS: Record<Column['type'], string> = {
  int: 'int',
  text: 'text',
  bool: 'boolean',
  num: 'numeric',
  float: 'float8',
  time: 'timestamptz',
  date: 'date',
  uuid: 'uuid',
};

/** A row variable in scope. */
interface Item {
  readonly alias: string;
  readonly columns: readonly Column[];
  readonly identity: readonly string[];
  readonly key: string | undefined;
  readonly family: Table['family'];
}

const KEYED = TABLES.filter(({ key }) => key !== undefined);
const NAMED = (name: string) => TABLES.find(table => table.name === name)!;

function itemOf(table: Table, alias: string): Item {
  return { ...table, alias };
}

/** FROM, with what can be named after it. */
function from(b: Builder, outer: readonly Item[] = []): { text: string; items: Item[] } {
  const table = b.chance(8) ? b.pick(TABLES) : b.pick(KEYED.slice(0, 4));
  const items = [itemOf(table, b.alias())];
  let text = `${table.name} ${items[0]!.alias}`;
  if (b.chance(8)) [text, items[0]] = derived(b, table);
  for (let n = b.pick([0, 0, 0, 1, 1, 2]); n > 0; n--) {
    const left = b.pick(items);
    const kind = b.number(11);
    if (kind < 6) {
      // Co-located, or not.
      const others = TABLES.filter(({ family }) => family === left.family && left.key);
      const other = others.length > 0 && !b.chance(10) ? b.pick(others) : b.pick(KEYED);
      const right = itemOf(other, b.alias());
      const on = join(b, left, right);
      const type = b.pick(['join', 'join', 'left join', 'right join', 'full join']);
      const more = b.chance(4) ? ` and ${condition(b, [right], outer, 1)}` : '';
      text = b.chance(6)
        ? `${text} cross join ${other.name} ${right.alias}`
        : `${text} ${type} ${other.name} ${right.alias} on ${on}${more}`;
      items.push(right);
    } else if (kind < 8) {
      const right = itemOf(NAMED('countries'), b.alias());
      const column = b.pick(
        left.columns.filter(({ type }) => type === 'text').concat([{ name: '', type: 'text' }]),
      );
      const on = column.name ? `${right.alias}.code = ${left.alias}.${column.name}` : 'true';
      text = `${text} ${b.pick(['join', 'left join', 'right join'])} countries ${right.alias} on ${on}`;
      items.push(right);
    } else if (kind < 10) {
      const [source, right] = derived(b, b.pick(KEYED.slice(0, 3)));
      text = `${text} ${b.pick(['join', 'left join'])} ${source} on ${join(b, left, right)}`;
      items.push(right);
    } else {
      const other = b.pick(KEYED.slice(0, 3));
      const inner = itemOf(other, b.alias());
      const alias = b.alias();
      const limit = b.chance(2) ? ` order by ${inner.identity.join(', ')} limit 2` : '';
      const isLeft = b.chance(2);
      const list = inner.identity.map(name => `${inner.alias}.${name}`).join(', ');
      const query = `select ${list} from ${other.name} ${inner.alias} where ${join(b, left, inner)}${limit}`;
      text = isLeft
        ? `${text} left join lateral (${query}) ${alias} on true`
        : `${text} cross join lateral (${query}) ${alias}`;
      items.push({
        ...inner,
        alias,
        columns: other.columns.filter(({ name }) => other.identity.includes(name)),
      });
    }
  }
  return { text, items };
}

/** On the keys, mostly. */
function join(b: Builder, left: Item, right: Item): string {
  if (left.key && right.key && !b.chance(7)) {
    const sides = [`${left.alias}.${left.key}`, `${right.alias}.${right.key}`];
    return b.chance(2) ? sides.join(' = ') : sides.reverse().join(' = ');
  }
  const column = b.pick(left.columns);
  const others = right.columns.filter(({ type }) => type === column.type);
  return others.length
    ? `${left.alias}.${column.name} = ${right.alias}.${b.pick(others).name}`
    : 'true';
}

/** A subquery in FROM. */
function derived(b: Builder, table: Table): [text: string, item: Item] {
  const inner = itemOf(table, b.alias());
  const alias = b.alias();
  const where = b.chance(2) ? ` where ${condition(b, [inner], [], 1)}` : '';
  const kind = b.number(3);
  if (kind === 0 && table.key) {
    const type = table.columns.find(({ name }) => name === table.key)!.type;
    return [
      `(select ${table.key}, count(*)::int as n from ${table.name} ${inner.alias}${where} group by ${table.key}) ${alias}`,
      {
        ...inner,
        alias,
        identity: [table.key],
        columns: [
          { name: table.key, type },
          { name: 'n', type: 'int' },
        ],
      },
    ];
  }
  if (kind === 1) {
    return [
      `(select * from ${table.name} ${inner.alias}${where} order by ${table.identity.join(', ')} limit ${1 + b.number(5)}) ${alias}`,
      { ...inner, alias },
    ];
  }
  return [`(select * from ${table.name} ${inner.alias}${where}) ${alias}`, { ...inner, alias }];
}

function expression(
  b: Builder,
  type: Column['type'],
  items: readonly Item[],
  depth: number,
): string {
  const fitting = items.flatMap(({ alias, columns: all }) =>
    all.filter(column => column.type === type).map(({ name }) => `${alias}.${name}`),
  );
  if (depth <= 0 || b.chance(2)) {
    return fitting.length > 0 && !b.chance(6) ? b.pick(fitting) : b.value(type);
  }
  const sub = (of: Column['type']) => expression(b, of, items, depth - 1);
  switch (type) {
    case 'int':
      return b.pick([
        () => `(${sub('int')} + ${sub('int')})`,
        () => `(${sub('int')} % 5)`,
        () => `length(${sub('text')})`,
        () => `coalesce(${sub('int')}, 0)`,
        () => `half(${sub('int')}::int)`,
      ])();
    case 'text':
      return b.pick([
        () => `lower(${sub('text')})`,
        () => `(${sub('text')} || ${sub('text')})`,
        () => `coalesce(${sub('text')}, '-')`,
        () => `case when ${sub('bool')} then ${sub('text')} else ${sub('text')} end`,
      ])();
    case 'bool':
      return b.pick([
        () => `(${sub('int')} > ${sub('int')})`,
        () => `(${sub('text')} is null)`,
        () => `(${sub('bool')} and ${sub('bool')})`,
      ])();
    case 'num':
      return b.pick([() => `(${sub('num')} * 2)`, () => `round(${sub('num')}, 1)`])();
    case 'float':
      return `(${sub('float')} + 1)`;
    case 'time':
      return `date_trunc('day', ${sub('time')})`;
    default:
      return b.value(type);
  }
}

function condition(
  b: Builder,
  items: readonly Item[],
  outer: readonly Item[],
  depth: number,
): string {
  const item = b.pick(items);
  const kind = b.number(15);
  if (kind < 4 && item.key) {
    const { type } = item.columns.find(({ name }) => name === item.key) ?? { type: 'int' as const };
    const name = `${item.alias}.${item.key}`;
    if (kind === 0) return `${name} = ${b.bare(type)}`;
    if (kind === 1) return `${name} in (${b.bare(type)}, ${b.bare(type)}, ${b.value(type)})`;
    if (kind === 2) {
      const list = Array.from({ length: b.number(4) }, () =>
        type === 'int' ? b.number(PEOPLE) : b.pick(type === 'uuid' ? UUIDS : WORDS),
      );
      return `${name} = any (${b.parameter(list)})`;
    }
    return `(${name} = ${b.value(type)} or ${name} = ${b.value(type)})`;
  }
  if (kind < 5 && outer.length > 0) return join(b, b.pick(outer), item);
  if (kind < 8 && depth > 0) {
    const inner = itemOf(b.chance(6) ? b.pick(TABLES) : b.pick(KEYED.slice(0, 4)), b.alias());
    const where = [join(b, item, inner)];
    if (b.chance(4)) where.pop();
    if (b.chance(3)) where.push(condition(b, [inner], [], 0));
    const filter = where.length ? ` where ${where.join(' and ')}` : '';
    if (kind === 5) {
      return `${b.chance(3) ? 'not ' : ''}exists (select from ${inner.alias.replace(/.*/, () => tableOf(inner))} ${inner.alias}${filter})`;
    }
    const tested =
      item.key && b.chance(2)
        ? item.columns.find(({ name }) => name === item.key)
        : b.pick(item.columns);
    const column = inner.columns.filter(({ type }) => type === tested?.type);
    const key = inner.columns.find(({ name }) => name === inner.key && tested?.type === 'int');
    if (!tested || column.length === 0) return 'true';
    const selected = key && b.chance(2) ? key : b.pick(column);
    if (kind === 6) {
      return `${item.alias}.${tested.name} ${b.chance(4) ? 'not ' : ''}in (select ${inner.alias}.${selected.name} from ${tableOf(inner)} ${inner.alias}${filter})`;
    }
    return `${item.alias}.${tested.name} >= (select ${tested.type === 'bool' ? 'bool_or' : tested.type === 'uuid' ? 'min' : b.pick(['min', 'max'])}(${inner.alias}.${selected.name}${tested.type === 'uuid' ? '::text' : ''})${tested.type === 'uuid' ? '::uuid' : ''} from ${tableOf(inner)} ${inner.alias}${filter})`;
  }
  if (kind < 10) {
    const column = b.pick(item.columns);
    return `${item.alias}.${column.name} is ${b.chance(2) ? 'not ' : ''}null`;
  }
  if (kind < 12) return expression(b, 'bool', items, 2);
  const column = b.pick(item.columns);
  const compare = column.type === 'bool' ? '=' : b.pick(['=', '<', '>', '<=', '<>']);
  return `${item.alias}.${column.name} ${compare} ${b.value(column.type)}`;
}

const tableOf = (item: Item) => (item as Item & { name: string }).name;

const TYPES: readonly Column['type'][] = ['int', 'text', 'bool', 'num', 'float', 'time'];

function aggregate(b: Builder, items: readonly Item[]): string {
  const e = (type: Column['type']) => expression(b, type, items, 1);
  const filter = b.chance(8) ? ` filter (where ${expression(b, 'bool', items, 1)})` : '';
  const all = items
    .flatMap(({ alias, identity }) => identity.map(name => `${alias}.${name}`))
    .join(', ');
  return (
    b.pick([
      () => 'count(*)',
      () => `count(${e(b.pick(TYPES))})`,
      () => `sum(${e(b.pick(['int', 'num'] as const))})`,
      () => `sum(${e('float')})`,
      () => `avg(${e(b.pick(['int', 'num', 'float'] as const))})`,
      () => `min(${e(b.pick(['int', 'text', 'num', 'time'] as const))})`,
      () => `max(${e(b.pick(['int', 'text', 'num', 'time'] as const))})`,
      () => `bool_and(${e('bool')})`,
      () => `bool_or(${e('bool')})`,
      () => `count(distinct ${e(b.pick(TYPES))})`,
      () => `sum(distinct ${e('int')})`,
      () => `stddev(${e('int')})`,
      () => `variance(${e('num')})`,
      () => `array_agg(${e('int')} order by ${all})`,
      () => `string_agg(${e('text')}, ',' order by ${all})`,
      () => `percentile_disc(0.5) within group (order by ${e('int')})`,
      () => `product((${e('int')} % 3)::int)`,
    ])() + filter
  );
}

interface Query {
  text: string;
  isOrdered: boolean;
}

function limit(b: Builder): string {
  const count = b.chance(2) ? String(b.number(6)) : b.parameter(b.number(6));
  const offset = b.chance(3)
    ? ` offset ${b.chance(2) ? b.number(4) : b.parameter(b.number(4))}`
    : '';
  return ` limit ${count}${offset}`;
}

const direction = (b: Builder) =>
  `${b.pick(['', ' asc', ' desc'])}${b.pick(['', '', ' nulls first', ' nulls last'])}`;

function query(b: Builder): Query {
  const kind = b.number(13);
  if (kind === 0) return union(b);
  if (kind === 1) return common(b);
  if (kind <= 5) return grouped(b);
  if (kind === 6) return windowed(b);
  if (kind === 7) return distinct(b);
  return rows(b);
}

function where(b: Builder, items: readonly Item[]): string {
  const conditions = Array.from({ length: b.pick([0, 0, 1, 1, 2, 3]) }, () =>
    condition(b, items, [], 1),
  );
  return conditions.length ? ` where ${conditions.join(' and ')}` : '';
}

function identityOf(items: readonly Item[]): string[] {
  return items.flatMap(({ alias, identity }) => identity.map(name => `${alias}.${name}`));
}

function rows(b: Builder): Query {
  const { text, items } = from(b);
  const list = Array.from({ length: 1 + b.number(3) }, (_, i) => {
    if (b.chance(6))
      return b.chance(2)
        ? `${b.pick(items).alias}.*`
        : `${expression(b, b.pick(TYPES), items, 2)} as x${i}`;
    return b.chance(10) ? scalar(b, items) : expression(b, b.pick(TYPES), items, 2);
  });
  const filter = where(b, items);
  const isOrdered = b.chance(2);
  if (!isOrdered) return { text: `select ${list.join(', ')} from ${text}${filter}`, isOrdered };
  const order = [
    ...Array.from({ length: b.number(2) }, () => `${orderable(b, items)}${direction(b)}`),
    ...identityOf(items).map(name => `${name}${direction(b)}`),
  ];
  const cut = b.chance(2) ? limit(b) : '';
  return {
    text: `select ${list.join(', ')} from ${text}${filter} order by ${order.join(', ')}${cut}`,
    isOrdered,
  };
}

/** A subquery that gives one value. */
function scalar(b: Builder, items: readonly Item[]): string {
  const inner = itemOf(b.chance(5) ? b.pick(TABLES) : b.pick(KEYED.slice(0, 4)), b.alias());
  const conditions = b.chance(2) ? [join(b, b.pick(items), inner)] : [];
  if (b.chance(3)) conditions.push(condition(b, [inner], [], 0));
  const filter = conditions.length ? ` where ${conditions.join(' and ')}` : '';
  return `(select ${b.pick(['count(*)', `max(${inner.alias}.${inner.columns[1]!.name})`, 'count(*) + 1'])} from ${tableOf(inner)} ${inner.alias}${filter})`;
}

/** Not a constant, which would be a position. */
function orderable(b: Builder, items: readonly Item[]): string {
  const item = b.pick(items);
  const { name, type } = b.pick(item.columns);
  return type === 'text' && b.chance(2) ? `lower(${item.alias}.${name})` : `${item.alias}.${name}`;
}

function grouped(b: Builder): Query {
  const { text, items } = from(b);
  const groups = Array.from({ length: b.pick([0, 1, 1, 2]) }, () => {
    const item = b.pick(items);
    if (b.chance(4))
      return b.chance(2)
        ? `(${item.alias}.${b.pick(item.columns).name} is null)`
        : `lower(coalesce(${b.chance(2) ? `${item.alias}.${b.pick(item.columns).name}::text` : "'x'"}, 'Q'))`;
    return `${item.alias}.${b.chance(3) && item.key ? item.key : b.pick(item.columns).name}`;
  });
  const aggregates = Array.from({ length: 1 + b.number(2) }, () => aggregate(b, items));
  const list = [...groups, ...aggregates.map((one, i) => `${one} as a${i}`)];
  const filter = where(b, items);
  const by = groups.length
    ? b.chance(8)
      ? ` group by rollup (${groups.join(', ')})`
      : b.chance(3)
        ? ` group by ${groups.map((_g, i) => i + 1).join(', ')}`
        : ` group by ${groups.join(', ')}`
    : '';
  const having = b.chance(4) ? ` having count(*) > ${b.number(2)}` : '';
  const head = b.chance(12) ? 'select distinct' : 'select';
  const isOrdered = b.chance(2) && !by.includes('rollup');
  const body = `${head} ${list.join(', ')} from ${text}${filter}${by}${having}`;
  if (!isOrdered) return { text: body, isOrdered: false };
  const order = list.map((_one, i) => `${i + 1}${direction(b)}`);
  const first = b.chance(3) && head === 'select' ? [`count(*)${direction(b)}`] : [];
  return {
    text: `${body} order by ${[...first, ...order].join(', ')}${b.chance(2) ? limit(b) : ''}`,
    isOrdered,
  };
}

function windowed(b: Builder): Query {
  const { text, items } = from(b);
  const item = b.pick(items);
  const partition =
    item.key && !b.chance(4)
      ? `${item.alias}.${item.key}`
      : `${item.alias}.${b.pick(item.columns).name}`;
  const over = `(partition by ${partition} order by ${identityOf(items).join(', ')})`;
  const call = b.pick([
    () => 'row_number()',
    () => 'rank()',
    () => `sum(${expression(b, 'int', items, 1)})`,
    () => 'count(*)',
    () => `lag(${expression(b, 'text', items, 1)})`,
  ])();
  return {
    text: `select ${identityOf(items).join(', ')}, ${call} over ${over} from ${text}${where(b, items)}`,
    isOrdered: false,
  };
}

function distinct(b: Builder): Query {
  const { text, items } = from(b);
  const filter = where(b, items);
  if (b.chance(3)) {
    const on = orderable(b, items);
    return {
      text: `select distinct on (${on}) ${on} as x, ${identityOf(items).join(', ')} from ${text}${filter} order by ${on}${direction(b)}, ${identityOf(items).join(', ')}`,
      isOrdered: true,
    };
  }
  const list = Array.from({ length: 1 + b.number(1) }, () => orderable(b, items));
  const isOrdered = b.chance(2);
  const order = isOrdered
    ? ` order by ${list.map((_one, i) => `${i + 1}${direction(b)}`).join(', ')}${b.chance(2) ? limit(b) : ''}`
    : '';
  return { text: `select distinct ${list.join(', ')} from ${text}${filter}${order}`, isOrdered };
}

function union(b: Builder): Query {
  const types = Array.from({ length: 1 + b.number(1) }, () => b.pick(TYPES));
  const branch = () => {
    const item = itemOf(b.chance(6) ? b.pick(TABLES) : b.pick(KEYED.slice(0, 4)), b.alias());
    const list = types.map((type, i) =>
      i === 0 &&
      type === 'int' &&
      item.key &&
      b.chance(2) &&
      item.family !== 'owner' &&
      item.family !== 'device'
        ? `${item.alias}.${item.key}`
        : expression(b, type, [item], 1),
    );
    return `select ${list.join(', ')} from ${tableOf(item)} ${item.alias}${where(b, [item])}`;
  };
  const operator = () => b.pick(['union', 'union all', 'union all', 'intersect', 'except']);
  let text = `${branch()} ${operator()} ${branch()}`;
  if (b.chance(4)) text = `${text} ${operator()} ${branch()}`;
  const isOrdered = b.chance(2);
  const order = isOrdered
    ? ` order by ${types.map((_one, i) => `${i + 1}${direction(b)}`).join(', ')}${b.chance(2) ? limit(b) : ''}`
    : '';
  return { text: text + order, isOrdered };
}

function common(b: Builder): Query {
  const table = b.pick(KEYED.slice(0, 4));
  const inner = itemOf(table, b.alias());
  const kind = b.number(2);
  const filter = where(b, [inner]);
  const body =
    kind === 0 && table.key
      ? `select ${table.key}, count(*)::int as n from ${table.name} ${inner.alias}${filter} group by ${table.key}`
      : kind === 1
        ? `select * from ${table.name} ${inner.alias}${filter} order by ${table.identity.join(', ')} limit 3`
        : `select * from ${table.name} ${inner.alias}${filter}`;
  const cte: Item = {
    ...inner,
    alias: 'w',
    ...(kind === 0
      ? {
          columns: [
            { name: table.key!, type: 'int' },
            { name: 'n', type: 'int' },
          ],
          identity: [table.key!],
        }
      : {}),
  };
  const other = itemOf(b.pick(KEYED.slice(0, 4)), b.alias());
  const more = b.chance(2)
    ? ` join ${tableOf(other)} ${other.alias} on ${join(b, cte, other)}`
    : '';
  const items = more ? [cte, other] : [cte];
  const list = identityOf(items);
  return {
    text: `with w as (${body}) select ${list.join(', ')} from w${more}${where(b, items)} order by ${list.join(', ')}`,
    isOrdered: true,
  };
}

// ---- writes

function write(b: Builder): Query & { writes: string[] } {
  const kind = b.number(13);
  if (kind < 4) return insert(b);
  if (kind > 11) return merge(b);
  const table = b.chance(4) ? b.pick(TABLES) : b.pick(KEYED.slice(0, 5));
  const free = table.columns.filter(
    ({ name }) => !table.identity.includes(name) && !['title', 'code'].includes(name),
  );
  const item = itemOf(table, b.alias());
  const isOrdered = false;
  const returning = b.chance(2)
    ? ` returning ${item.alias}.${table.identity.join(`, ${item.alias}.`)}`
    : '';
  const others = b.chance(4) ? b.pick(KEYED.slice(0, 3)) : undefined;
  const other = others && itemOf(others, b.alias());
  const conditions = Array.from({ length: b.pick([0, 1, 1, 2]) }, () =>
    condition(b, [item], [], 1),
  );
  // A row that is joined to several gets one of their values, so it is set to none of them.
  if (other) conditions.push(join(b, item, other));
  const filter = conditions.length ? ` where ${conditions.join(' and ')}` : '';
  if (kind < 8 && free.length > 0) {
    const column = b.pick(free);
    const target =
      b.chance(15) && table.key ? table.columns.find(({ name }) => name === table.key)! : column;
    const cast = target.type === 'int' ? '::int' : '';
    const value =
      target.type === 'text' ? b.value('text') : `${expression(b, target.type, [item], 1)}${cast}`;
    const using = other ? ` from ${tableOf(other)} ${other.alias}` : '';
    return {
      text: `update ${table.name} ${item.alias} set ${target.name} = ${value}${using}${filter}${returning}`,
      isOrdered,
      writes: [table.name],
    };
  }
  const using = other ? ` using ${tableOf(other)} ${other.alias}` : '';
  return {
    text: `delete from ${table.name} ${item.alias}${using}${filter}${returning}`,
    isOrdered,
    writes: [table.name],
  };
}

/** MERGE: of rows that are where those of the target are, or not. */
function merge(b: Builder): Query & { writes: string[] } {
  const table = b.pick(KEYED.slice(0, 3));
  const names = INSERTS[table.name]!;
  const types = names.map(name => table.columns.find(one => one.name === name)!.type);
  const [t, s] = [b.alias(), b.alias()];
  const identity = table.identity;
  let source: string;
  if (b.chance(3)) {
    const list = types.map((type, i) => `${b.value(type)}${i === 0 ? '::bigint' : ''}`);
    source = b.chance(2)
      ? `(values (${list.join(', ')})) ${s}(${names.join(', ')})`
      : `(select ${list.map((one, i) => `${one} as ${names[i]}`).join(', ')}) ${s}`;
  } else {
    const other = b.chance(4) ? b.pick(TABLES) : b.pick(KEYED.slice(0, 3));
    const inner = itemOf(other, b.alias());
    const list = types.map((type, i) => {
      if (i === 0 && other.key && !b.chance(6)) return `${inner.alias}.${other.key}`;
      return `(${expression(b, type, [inner], 1)})${type === 'int' ? '::int' : ''}`;
    });
    const aliased = list.map((one, i) => `${one} as ${names[i]}`).join(', ');
    const first = identity.map((_name, i) => i + 1).join(', ');
    // One row for each of the target, or which one counts would not be determined.
    source = `(select distinct on (${first}) ${aliased} from ${other.name} ${inner.alias}${where(b, [inner])} order by ${names.map((_n, i) => i + 1).join(', ')}) ${s}`;
  }
  const on = identity.map(name => `${t}.${name} = ${s}.${name}`).join(' and ');
  const free = names.filter(name => !identity.includes(name));
  const set = free.length > 0 ? b.pick(free) : undefined;
  const clauses: string[] = [];
  if (set && b.chance(2)) {
    const more = b.chance(3) ? ` and ${t}.${set} is not null` : '';
    clauses.push(`when matched${more} then update set ${set} = ${s}.${set}`);
  }
  if (b.chance(3)) clauses.push('when matched then delete');
  if (clauses.length === 0 || b.chance(2)) {
    const key = b.chance(10) ? b.value(types[0]!) : `${s}.${names[0]}`;
    const rest = names.slice(1).map(name => `${s}.${name}`);
    clauses.push(
      `when not matched then insert (${names.join(', ')}) values (${[key, ...rest].join(', ')})`,
    );
  }
  return {
    text: `merge into ${table.name} ${t} using ${source} on ${on} ${clauses.join(' ')}`,
    isOrdered: false,
    writes: [table.name],
  };
}

const INSERTS: Record<string, readonly string[]> = {
  users: ['id', 'name', 'age', 'score'],
  posts: ['user_id', 'id', 'title', 'views'],
  comments: ['user_id', 'id', 'body'],
  likes: ['post_id', 'user_id'],
  accounts: ['owner', 'balance'],
  devices: ['id', 'kind'],
  countries: ['code', 'name', 'people'],
  settings: ['key', 'value'],
};

function insert(b: Builder): Query & { writes: string[] } {
  const table = b.pick(TABLES);
  const names = INSERTS[table.name]!;
  const types = names.map(name => table.columns.find(column => column.name === name)!.type);
  const returning = b.chance(2) ? ` returning ${b.chance(2) ? '*' : names.join(', ')}` : '';
  const set = names.find(name => !table.identity.includes(name));
  const conflict = b.pick([
    '',
    ` on conflict do nothing`,
    ` on conflict (${table.identity.join(', ')}) do nothing`,
    set ? ` on conflict (${table.identity.join(', ')}) do update set ${set} = excluded.${set}` : '',
  ]);
  const head = `insert into ${table.name} (${names.join(', ')})`;
  if (b.chance(4)) {
    const source = itemOf(b.chance(2) ? table : b.pick(TABLES), b.alias());
    const list = types.map((type, i) => {
      const same = source.columns.find(
        ({ name }) => name === (i === 0 ? (source.key ?? names[i]) : names[i]),
      );
      const value =
        same?.type === type && !b.chance(3)
          ? `${source.alias}.${same.name}`
          : expression(b, type, [source], 1);
      return type === 'int' ? `(${value})::int` : value;
    });
    const shift = types[1] === 'int' ? `(${list[1]} + 1000)::int` : list[1]!;
    const key =
      types[0] === 'int' && same0(list[0]!) ? list[0]!.replace(/^\((.*)\)::int$/, '$1') : list[0]!;
    // Of rows with the same key it is not determined which is first.
    const isSame =
      tableOf(source) === table.name &&
      same0(list[0]!) &&
      !/\d/.test(list[1]!.replace(/t\d+/g, ''));
    const all = [key, shift, ...list.slice(2)];
    return {
      text: `${head} select ${all.join(', ')} from ${tableOf(source)} ${source.alias}${where(b, [source])}${isSame && !conflict.includes('update') ? conflict : ''}`,
      isOrdered: false,
      writes: [table.name],
    };
  }
  const count = 1 + b.pick([0, 0, 1, 2, 4]);
  const rowsText = Array.from({ length: count }, () => {
    const row = types.map((type, i) => {
      const isComputed = i === 0 && table.family === 'person' && b.chance(6);
      return isComputed ? `${b.value('int')} + 1` : b.bare(type);
    });
    return `(${row.join(', ')})`;
  });
  return {
    text: `${head} values ${rowsText.join(', ')}${conflict}${returning}`,
    isOrdered: returning !== '' && !conflict.includes('nothing'),
    writes: [table.name],
  };
}

const same0 = (text: string) => /^\(t\d+\.\w+\)::int$/.test(text);

export function generate(draw: Draw): Generated {
  const b = new Builder(draw);
  const isWrite = b.chance(4);
  const made = isWrite ? write(b) : { ...query(b), writes: [] as string[] };
  return { ...made, values: b.values };
}
