/**
 * The life of deliveries in PostgreSQL against a model of it: what is published, taken, completed, failed, handed back, and taken away from
 * workers, in any order. After each step the tables say what the model says.
 */
import fc from 'fast-check';
import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { nextId } from '../../../src/app/ids/next-id.ts';
import type { Delivery, SubscriptionPolicy } from '../../../src/app/queue/engine.ts';
import { LeaseLost } from '../../../src/app/queue/errors.ts';
import { withEffects } from '../../../src/app/queue/postgres/effects.ts';
import { PostgresEngine } from '../../../src/app/queue/postgres/engine.ts';
import { placesOf } from '../../../src/app/queue/postgres/places.ts';
import { ShardWorker } from '../../../src/app/queue/postgres/shard-worker.ts';
import { log } from '../../../src/app/telemetry/log.ts';
import { TestPostgres } from '../../support/postgres.ts';

// Failures are what is tried here.
log.level = 'silent';

const MAX_ATTEMPTS = 2;
/** Nothing is due, and no lease runs out, but when a step says so. */
const LONG_MS = 3_600_000;
const RUNS = 12;
const WORKERS = [0, 1] as const;

let postgres: TestPostgres;
let pool: pg.Pool;
let topics = 0;

beforeAll(async () => {
  postgres = await TestPostgres.start();
  pool = await postgres.pool();
  await pool.query('create table effects (id bigint not null)');
});
afterAll(() => postgres.remove());

/** `delayed`: due later. */
type State = 'waiting' | 'held' | 'delayed' | 'dead' | 'done';

interface Modelled {
  readonly id: string;
  readonly key: string | undefined;
  state: State;
  attempts: number;
  suspect: boolean;
  /** A worker died with it since it is suspect. */
  comesAlone: boolean;
  /** In hand as the one suspect of its process: should that die, it is counted. */
  isAlone: boolean;
  holder: number | undefined;
}

interface Model {
  /** In the order in which they were published. */
  readonly all: Modelled[];
}

/** What a worker believes to have. */
interface Hand {
  readonly worker: ShardWorker;
  readonly held: Map<string, Delivery>;
  /** What it had, and others may have by now. */
  readonly lost: Map<string, Delivery>;
}

interface Real {
  readonly topic: string;
  readonly engine: PostgresEngine;
  readonly hands: readonly Hand[];
}

class World implements Real {
  readonly topic = `modelled-${++topics}`;
  readonly engine = new PostgresEngine({ pool, leaseMs: LONG_MS });
  readonly hands: readonly Hand[];
  readonly #policy: SubscriptionPolicy = {
    topic: this.topic,
    name: 'work',
    maxAttempts: MAX_ATTEMPTS,
    backoff: { firstMs: LONG_MS, factor: 1, maxMs: LONG_MS },
    keepResultsMs: 0,
  };

  constructor() {
    this.hands = WORKERS.map(number => {
      const held = new Map<string, Delivery>();
      const worker = new ShardWorker({
        place: placesOf(pool)()[0]!,
        name: `${this.topic}-${number}`,
        leaseMs: LONG_MS,
        policies: [this.#policy],
        declare: async () => {
          const { rows } = await pool.query<{ id: number }>(
            'select id from banyan_queue.subscription where topic = $1',
            [this.topic],
          );
          return new Map([[`${this.topic}/work`, rows[0]!.id]]);
        },
        wake: () => {},
        lost: () => {},
        unguarded: false,
      });
      return { worker, held, lost: new Map() };
    });
  }

  async declare(): Promise<this> {
    await this.engine.declare([this.#policy]);
    return this;
  }

  async close(): Promise<void> {
    await Promise.all(this.hands.map(({ worker }) => worker.close()));
    await this.engine.close();
  }
}

/** The tables say what the model says. */
async function compare({ all }: Model, { topic }: Real): Promise<void> {
  const { rows } = await pool.query<{
    id: string;
    state: State;
    attempts: number;
    suspect: boolean;
  }>(
    `with s as (select id from banyan_queue.subscription where topic = $1)
     select d.message as id, d.attempts, d.suspect,
       case when d.due > clock_timestamp() then 'delayed'
         when exists (select from banyan_queue.lease l where l.subscription = s.id and d.position = any (l.positions)) then 'held'
         else 'waiting' end as state
     from banyan_queue.delivery d join s on s.id = d.subscription
     union all select k.message, k.attempts, null, 'dead' from banyan_queue.dead k join s on s.id = k.subscription
     order by 1`,
    [topic],
  );
  const modelled = all
    .filter(({ state }) => state !== 'done')
    .map(({ id, state, attempts, suspect }) => ({
      id,
      attempts,
      suspect: state === 'dead' ? null : suspect,
      state,
    }));
  expect(rows).toEqual(modelled.sort((a, b) => (BigInt(a.id) < BigInt(b.id) ? -1 : 1)));
}

type Command = fc.AsyncCommand<Model, Real>;

class Publish implements Command {
  readonly #keys: readonly (string | undefined)[];

  constructor(keys: readonly (string | undefined)[]) {
    this.#keys = keys;
  }

  check = () => true;

  async run({ all }: Model, { engine, topic }: Real): Promise<void> {
    const messages = this.#keys.map(key => ({ id: nextId(), key }));
    await engine.publish(
      messages.map(({ id, key }) => ({
        ...{ id, topic, key, payload: '{}', priority: 0, delayMs: 0, dedupe: undefined },
      })),
      undefined,
    );
    for (const { id, key } of messages) {
      all.push({
        id,
        key,
        state: 'waiting',
        attempts: 0,
        suspect: false,
        comesAlone: false,
        isAlone: false,
        holder: undefined,
      });
    }
  }

  toString = () => `publish(${this.#keys.map(key => key ?? '–').join(',')})`;
}

class Take implements Command {
  readonly #by: number;
  readonly #count: number;
  readonly #suspects: number;

  constructor(by: number, count: number, suspects: number) {
    this.#by = by;
    this.#count = count;
    this.#suspects = suspects;
  }

  check = () => true;

  async run({ all }: Model, { topic, hands }: Real): Promise<void> {
    const { worker, held } = hands[this.#by]!;
    const want = { subscription: `${topic}/work`, count: this.#count, suspects: this.#suspects };
    const got = await worker.take([want], false).catch(error => {
      // It learns so that it is not known any more, and asks as a new one.
      if (error.code !== 'BQ001') throw error;
      return worker.take([want], false);
    });
    const isBusy = (key: string | undefined) =>
      key !== undefined && all.some(each => each.key === key && each.state === 'held');
    const before = (one: Modelled) =>
      one.key === undefined
        ? []
        : all
            .slice(0, all.indexOf(one))
            .filter(({ key, state }) => key === one.key && state !== 'done' && state !== 'dead');
    const suspects = all
      .filter(
        each =>
          each.state === 'waiting' &&
          each.suspect &&
          !isBusy(each.key) &&
          before(each).length === 0,
      )
      .slice(0, Math.min(this.#suspects, this.#count))
      .filter((each, index, [first]) => index === 0 || !(each.comesAlone || first!.comesAlone));
    const free = all.filter(
      each =>
        each.state === 'waiting' &&
        !each.suspect &&
        !isBusy(each.key) &&
        before(each).every(other => other.state === 'waiting' && !other.suspect),
    );
    expect(got.filter(({ isSuspect }) => isSuspect).map(({ id }) => id)).toEqual(
      suspects.map(({ id }) => id),
    );
    const rest = got.filter(({ isSuspect }) => !isSuspect).map(({ id }) => id);
    const known = free.map(({ id }) => id);
    expect(known).toEqual(expect.arrayContaining(rest));
    expect(rest.length).toBe(Math.min(free.length, this.#count - suspects.length));
    // Of each key the first ones, in order.
    for (const key of new Set(free.map(each => each.key).filter(each => each !== undefined))) {
      const own = rest.filter(id => free.some(each => each.id === id && each.key === key));
      const first = free.filter(each => each.key === key).slice(0, own.length);
      expect(own).toEqual(first.map(({ id }) => id));
    }
    for (const delivery of got) {
      const one = all.find(({ id }) => id === delivery.id)!;
      expect(delivery.attempt).toBe(one.attempts + 1);
      one.state = 'held';
      one.isAlone = one.suspect && suspects.length === 1;
      one.holder = this.#by;
      held.set(delivery.id, delivery);
    }
  }

  toString = () =>
    `take(${this.#by}, ${this.#count}${this.#suspects > 0 ? `, ${this.#suspects} suspects` : ''})`;
}

type End = 'complete' | 'transaction' | 'fail' | 'bury' | 'hand back';

/** The first of what it has, or of what it has lost. */
class Settle implements Command {
  readonly #by: number;
  readonly #how: End;
  readonly #isLate: boolean;

  constructor(by: number, how: End, isLate: boolean) {
    this.#by = by;
    this.#how = how;
    this.#isLate = isLate;
  }

  check = () => true;

  async run({ all }: Model, { hands }: Real): Promise<void> {
    const { worker, held, lost } = hands[this.#by]!;
    const from = this.#isLate ? lost : held;
    const [delivery] = from.values();
    if (!delivery) return;
    from.delete(delivery.id);
    expect(await this.#settle(worker, delivery)).toBe(this.#isLate ? 'refused' : 'done');
    if (this.#isLate) return;
    const one = all.find(({ id }) => id === delivery.id)!;
    one.holder = undefined;
    if (this.#how === 'complete' || this.#how === 'transaction') one.state = 'done';
    else if (this.#how === 'hand back') one.state = 'waiting';
    else {
      one.attempts++;
      one.suspect = false;
      one.comesAlone = false;
      one.state = this.#how === 'bury' ? 'dead' : 'delayed';
    }
  }

  async #settle(worker: ShardWorker, delivery: Delivery): Promise<'done' | 'refused'> {
    switch (this.#how) {
      case 'complete':
        return (await worker.settler.complete({ delivery })) ? 'refused' : 'done';
      case 'transaction':
        try {
          await withEffects(
            { pool, places: placesOf(pool), unguarded: false },
            [delivery],
            tx => tx.query('insert into effects values ($1)', [delivery.id]),
            {},
          );
          worker.noteCompleted([delivery]);
          return 'done';
        } catch (error) {
          if (error instanceof LeaseLost) return 'refused';
          throw error;
        }
      case 'hand back':
        await worker.settler.handBack([delivery]);
        // It says nothing of what it has lost; the comparison does.
        return this.#isLate ? 'refused' : 'done';
      default: {
        const retryInMs = this.#how === 'bury' ? undefined : LONG_MS;
        const refused = await worker.settler.fail([{ delivery, error: 'no', retryInMs }]);
        return refused.length > 0 ? 'refused' : 'done';
      }
    }
  }

  toString = () => `${this.#how}(${this.#by}${this.#isLate ? ', late' : ''})`;
}

/** A worker is silent for longer than its lease. */
class Expire implements Command {
  readonly #by: number;

  constructor(by: number) {
    this.#by = by;
  }

  check = () => true;

  async run({ all }: Model, { topic, hands }: Real): Promise<void> {
    await pool.query(`update banyan_queue.worker set expires_at = '-infinity' where name = $1`, [
      `${topic}-${this.#by}`,
    ]);
    await pool.query('select banyan_queue.reap()');
    const { held, lost } = hands[this.#by]!;
    for (const [id, delivery] of held) lost.set(id, delivery);
    held.clear();
    for (const one of all) {
      if (one.holder !== this.#by) continue;
      one.holder = undefined;
      one.comesAlone = one.suspect;
      if (!one.isAlone) {
        one.suspect = true;
        one.state = 'waiting';
        continue;
      }
      one.attempts++;
      one.state = one.attempts >= MAX_ATTEMPTS ? 'dead' : 'delayed';
    }
  }

  toString = () => `expire(${this.#by})`;
}

/** What was delayed is due. */
class Later implements Command {
  check = () => true;

  async run({ all }: Model, { topic }: Real): Promise<void> {
    await pool.query(
      `update banyan_queue.delivery d set due = clock_timestamp() from banyan_queue.subscription s
       where s.id = d.subscription and s.topic = $1 and d.due is not null`,
      [topic],
    );
    for (const one of all) if (one.state === 'delayed') one.state = 'waiting';
  }

  toString = () => 'later()';
}

/** And then everything is as the model has it. */
function compared(command: Command): Command {
  return {
    check: model => command.check(model),
    run: async (model, real) => {
      await command.run(model, real);
      await compare(model, real);
    },
    toString: () => command.toString(),
  };
}

const by = fc.constantFrom(...WORKERS);
const keys = fc.array(fc.constantFrom(undefined, 'a', 'b'), { minLength: 1, maxLength: 4 });
const ends = fc.constantFrom<End>('complete', 'transaction', 'fail', 'bury', 'hand back');
const commands: fc.Arbitrary<Command>[] = [
  keys.map(list => new Publish(list)),
  fc
    .tuple(by, fc.integer({ min: 1, max: 3 }), fc.integer({ min: 0, max: 3 }))
    .map(([worker, count, suspects]) => new Take(worker, count, suspects)),
  fc.tuple(by, ends).map(([worker, how]) => new Settle(worker, how, false)),
  fc.tuple(by, ends).map(([worker, how]) => new Settle(worker, how, true)),
  by.map(worker => new Expire(worker)),
  fc.constant(new Later()),
];

test('deliveries live as the model says, whatever is done in whatever order', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.commands(
        commands.map(each => each.map(compared)),
        { maxCommands: 60, size: 'max' },
      ),
      async steps => {
        const model: Model = { all: [] };
        const world = new World();
        try {
          await fc.asyncModelRun(async () => ({ model, real: await world.declare() }), steps);
          const { rows } = await pool.query<{ id: string; times: number }>(
            'select id, count(*)::int as times from effects group by id',
          );
          expect(rows.filter(({ times }) => times !== 1)).toEqual([]);
        } finally {
          await world.close();
        }
      },
    ),
    { numRuns: RUNS },
  );
}, 240_000);
