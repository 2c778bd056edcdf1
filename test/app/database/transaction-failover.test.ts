/** The primary is killed under load and its synchronous standby takes over: each transaction is told the truth. */
import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { OutcomeUnknown } from '../../../src/app/database/errors.ts';
import { outcomeFunctions } from '../../../src/app/database/outcome-functions.ts';
import { createPool, type Pool } from '../../../src/app/database/pool.ts';
import { log } from '../../../src/app/telemetry/log.ts';
import { publishRuntimeMap } from '../../../src/map/map-file.ts';
import { temporaryFolder } from '../../support/deployment.ts';
import { killServer } from '../../support/server-processes.ts';
import { StandbyPair } from '../../support/standby.ts';
import { until } from '../../support/until.ts';

log.level = 'silent';

const SESSIONS = 8;

let folder: string;
let mapFile: string;
let pair: StandbyPair;
let pool: Pool;
let poolToStandby: Pool;

const PRIMARY = 0;
const STANDBY = 1;
const publish = (which: typeof PRIMARY | typeof STANDBY) =>
  publishRuntimeMap(mapFile, {
    deployment: 'test',
    dataCentre: 'local',
    database: {
      name: 'postgres',
      shards: [
        {
          id: '0',
          members: [
            { host: '127.0.0.1', port: pair.cluster.members[which]!.port, dataCentre: 'local' },
          ],
        },
      ],
    },
    assets: { baseUrl: '' },
  });

beforeAll(async () => {
  folder = temporaryFolder();
  mapFile = path.join(folder, 'map.json');
  pair = await StandbyPair.start();
  await pair.primary.query(
    `create role app; ${outcomeFunctions('app')}; create table done (id int)`,
  );
  // What is killed is started again, but nobody finds it any more.
  await pair.primary.query("alter system set listen_addresses = '127.0.0.254'");
  await pair.primary.query("alter system set synchronous_standby_names = '*'");
  await pair.primary.query('select pg_reload_conf()');
  await publish(PRIMARY);
  pool = createPool({
    connectionString: pair.cluster.members[PRIMARY]!.url(),
    mapFile,
    max: SESSIONS,
    holdTimeoutMs: 40_000,
  });
  poolToStandby = createPool({
    connectionString: pair.cluster.members[STANDBY]!.url(),
  });
});
afterAll(async () => {
  await Promise.all([pool?.end(), poolToStandby?.end()]);
  await pair?.remove();
  await rm(folder, { recursive: true });
});

test('what was said to be done is done once, what was said to have failed is not done', async () => {
  const done: number[] = [];
  const unknown: number[] = [];
  const failed: unknown[] = [];
  let ids = 0;
  const leaving = new AbortController();
  const session = async () => {
    while (!leaving.signal.aborted) {
      const id = ++ids;
      try {
        await pool.transaction(
          async client => {
            await client.query('insert into done values ($1)', [id]);
          },
          { timeoutMs: 40_000 },
        );
        done.push(id);
      } catch (error) {
        if (error instanceof OutcomeUnknown) unknown.push(id);
        else failed.push([id, error]);
      }
    }
  };
  const sessions = Array.from({ length: SESSIONS }, session);
  const more = (count: number) => {
    const goal = done.length + count;
    return until(() => done.length >= goal, { what: 'transactions succeed', timeoutMs: 45_000 });
  };
  await more(200);
  // One that looks for the primary where it will be, and finds a standby until then.
  const refused = once(poolToStandby, 'remove');
  const early = poolToStandby.transaction(async () => 'done', {
    retries: 1_000,
    timeoutMs: 40_000,
  });
  await refused;
  await killServer(pair.primary);
  await pair.standby.query('select pg_promote()');
  await publish(STANDBY);
  await more(200);
  leaving.abort();
  await Promise.all(sessions);
  expect(await early).toBe('done');

  const { rows } = await pair.standby.query<{ id: number }>('select id from done order by id');
  expect(rows.map(({ id }) => id)).toEqual(done.toSorted((a, b) => a - b));
  expect(unknown).toEqual([]);
  expect(failed).toEqual([]);
});
