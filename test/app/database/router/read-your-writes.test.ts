/**
 * Read your writes, exactly: over random interleavings of writes and reads of several requests in two
 * processes' pools, while replicas stand still and go on.
 */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Pool } from '../../../../src/app/database/pool.ts';
import { log } from '../../../../src/app/telemetry/log.ts';
import { withRequestContext } from '../../../../src/app/telemetry/request-context.ts';
import { Cluster } from '../../../support/cluster.ts';
import { RoutedPools } from '../../../support/routed.ts';

log.level = 'silent';

let cluster: Cluster;
let pools: RoutedPools;
let processes: Pool[];

beforeAll(async () => {
  cluster = await Cluster.start({ standbys: 2 });
  pools = new RoutedPools(cluster);
  await pools.publish();
  await cluster.primary.ask(`
    create table versions (key int primary key, version int not null);
    insert into versions select i, 0 from generate_series(0, 2) i`);
  await pools.prepare();
  processes = [await pools.reading(), await pools.reading()];
});
afterAll(async () => {
  await cluster?.remove();
});

/** Of each key the highest version whose write was acknowledged. */
const acknowledged = [0, 0, 0];
let next = 0;
const seen = { primary: 0, replica: 0 };

interface Read {
  version: number;
  server: string;
}

/** What one request has to be shown of a key. */
class Request {
  readonly #pool: Pool;
  readonly #context = { requestId: 'test' };
  readonly #floor = [...acknowledged];

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  write(key: number, how: 'query' | 'transaction'): Promise<void> {
    return withRequestContext(this.#context, async () => {
      // Only upwards: writes of several requests may overtake each other.
      const version = ++next;
      const text = 'update versions set version = greatest(version, $2) where key = $1';
      if (how === 'query') await this.#pool.query(text, [key, version]);
      else {
        const client = await this.#pool.connect();
        await client.query('begin');
        await client.query(text, [key, version]);
        await client.query('commit');
        client.release();
      }
      acknowledged[key] = Math.max(acknowledged[key]!, version);
      this.#floor[key] = Math.max(this.#floor[key]!, version);
    });
  }

  read(key: number): Promise<void> {
    return withRequestContext(this.#context, async () => {
      const floor = this.#floor[key]!;
      const { rows } = await this.#pool.query<Read>(
        'select version, whereami() as server from versions where key = $1',
        [key],
      );
      const { version, server } = rows[0]!;
      seen[server === cluster.primary.name ? 'primary' : 'replica']++;
      expect(version, `read from ${server}`).toBeGreaterThanOrEqual(floor);
    });
  }
}

/** Of each standby one after the other: a pause that is taken back meanwhile would be waited for in vain. */
const replays = [Promise.resolve(), Promise.resolve()];
function replay(what: 'pause' | 'resume', index: number): Promise<void> {
  const standby = cluster.standbys[index]!;
  replays[index] = replays[index]!.then(() =>
    what === 'pause' ? standby.pauseReplay() : standby.resumeReplay(),
  );
  return replays[index];
}

const key = fc.nat(2);
const step = fc.oneof(
  { weight: 3, arbitrary: fc.record({ do: fc.constant('new' as const), process: fc.nat(1) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('write' as const),
      request: fc.nat(3),
      key,
      how: fc.constantFrom('query' as const, 'transaction' as const),
    }),
  },
  {
    weight: 10,
    arbitrary: fc.record({ do: fc.constant('read' as const), request: fc.nat(3), key }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constantFrom('pause' as const, 'resume' as const),
      standby: fc.nat(1),
    }),
  },
);

test('no request sees less than what was acknowledged before it came, and than what it wrote', async () => {
  await fc.assert(
    fc
      .asyncProperty(
        // What is in one list happens at the same time.
        fc.array(fc.array(step, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 15 }),
        async rounds => {
          const requests = Array.from({ length: 4 }, (_, i) => new Request(processes[i % 2]!));
          for (const steps of rounds) {
            await Promise.all(
              steps.map(async one => {
                if (one.do === 'new') {
                  requests.shift();
                  requests.push(new Request(processes[one.process]!));
                } else if (one.do === 'write') await requests[one.request]!.write(one.key, one.how);
                else if (one.do === 'read') await requests[one.request]!.read(one.key);
                else await replay(one.do, one.standby);
              }),
            );
          }
        },
      )
      .afterEach(async () => {
        for (const standby of cluster.standbys) await standby.resumeReplay();
      }),
    { numRuns: 150 },
  );
  // Both were tried.
  expect(seen.replica).toBeGreaterThan(50);
  expect(seen.primary).toBeGreaterThan(20);
}, 180_000);

test('outside of requests the process sees its own writes, whichever replica lags', async () => {
  await cluster.standbys[0]!.pauseReplay();
  const pool = processes[0]!;
  const servers = new Set<string>();
  for (let i = 0; i < 200; i++) {
    const version = ++next;
    if (i % 10 === 0) await pool.query('update versions set version = $1 where key = 0', [version]);
    const floor = i % 10 === 0 ? version : undefined;
    const { rows } = await pool.query<Read>(
      'select version, whereami() as server from versions where key = 0',
    );
    servers.add(rows[0]!.server);
    if (floor !== undefined) expect(rows[0]!.version).toBeGreaterThanOrEqual(floor);
    await new Promise(resolve => setImmediate(resolve));
  }
  await cluster.standbys[0]!.resumeReplay();
  expect(servers.has('member-2')).toBe(true);
});
