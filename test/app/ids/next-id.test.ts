/** Ids are unique and rise, whatever processes come and go and the clock does. */
import { execFile } from 'node:child_process';
import { readdirSync, rmSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { COUNTS, ID_EPOCH_MS, PROCESSES } from '../../../src/app/ids/layout.ts';
import { ClockBehind, IdMaker } from '../../../src/app/ids/next-id.ts';
import { NoSeat, takeSeat } from '../../../src/app/ids/seat.ts';
import { nextId } from '../../../src/index.ts';
import { REPOSITORY, temporaryFolder } from '../../support/deployment.ts';

let folder: string;
beforeEach(() => {
  folder = temporaryFolder();
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(folder, { recursive: true, force: true });
});

const timeOf = (id: string) => Number(BigInt(id) >> 22n) + ID_EPOCH_MS;
const rises = (ids: string[]) => ids.every((id, i) => i === 0 || BigInt(id) > BigInt(ids[i - 1]!));

test('ids rise, fit into 64 bits, and tell when they were made', () => {
  const ids = Array.from({ length: 1_000 }, () => nextId());
  expect(rises(ids)).toBe(true);
  expect(ids.every(id => /^\d+$/.test(id) && BigInt.asIntN(64, BigInt(id)) === BigInt(id))).toBe(
    true,
  );
  expect(Math.abs(timeOf(ids[0]!) - Date.now())).toBeLessThan(20_000);
});

/** A world of processes that share a folder and a clock, which may jump. */
type Deed =
  | { do: 'start' }
  | { do: 'make'; who: number; count: number }
  | { do: 'end' | 'die'; who: number }
  | { do: 'clean'; place: number }
  | { do: 'clock'; byMs: number };

const deed: fc.Arbitrary<Deed> = fc.oneof(
  fc.constant<Deed>({ do: 'start' }),
  fc.record({
    do: fc.constant('make' as const),
    who: fc.nat(20),
    count: fc.oneof(fc.integer({ min: 1, max: 5 }), fc.constant(COUNTS + 1)),
  }),
  fc.record({ do: fc.constantFrom('end' as const, 'die' as const), who: fc.nat(20) }),
  fc.record({
    do: fc.constant('clock' as const),
    byMs: fc.oneof(
      fc.integer({ min: 0, max: 3 }),
      fc.integer({ min: -30_000, max: 30_000 }),
      fc.constant(20_000),
    ),
  }),
);

test('property: no two processes make the same id, through ends, deaths and clocks that jump', () => {
  fc.assert(
    fc.property(fc.array(deed, { maxLength: 60 }), deeds => {
      const world = temporaryFolder();
      let clock = ID_EPOCH_MS + 1_000_000_000;
      const makers: { maker: IdMaker; made: string[] }[] = [];
      const all = new Set<string>();
      let count = 0;
      const next = (who: { maker: IdMaker; made: string[] }) => {
        try {
          who.made.push(who.maker.next());
        } catch (error) {
          expect(error).toBeInstanceOf(ClockBehind);
          return;
        }
        count++;
        all.add(who.made.at(-1)!);
      };
      try {
        for (const each of deeds) {
          if (each.do === 'start') {
            // Few seats, so that they are taken again and again.
            const take = () => takeSeat(world, () => clock, 4);
            try {
              makers.push({ maker: new IdMaker(take, () => clock), made: [] });
            } catch (error) {
              expect(error).toBeInstanceOf(NoSeat);
            }
          } else if (each.do === 'clock') clock += each.byMs;
          else if (each.do !== 'clean' && makers.length > 0) {
            const at = each.who % makers.length;
            const who = makers[at]!;
            if (each.do === 'make') {
              try {
                for (let i = 0; i < each.count; i++) next(who);
              } catch (error) {
                // All seats are held: it makes no id.
                expect(error).toBeInstanceOf(NoSeat);
              }
            } else {
              if (each.do === 'end') who.maker.leave();
              makers.splice(at, 1);
            }
          }
        }
        expect(all.size).toBe(count);
        for (const { made } of makers) expect(rises(made)).toBe(true);
      } finally {
        rmSync(world, { recursive: true, force: true });
      }
    }),
    { numRuns: 60 },
  );
});

test('processes and threads of one machine make different ids', async () => {
  const code = `
    import { Worker, isMainThread, parentPort } from 'node:worker_threads';
    import { nextId } from ${JSON.stringify(path.join(REPOSITORY, 'src/app/ids/next-id.ts'))};
    const ids = Array.from({ length: 2000 }, () => nextId());
    if (!isMainThread) parentPort.postMessage(ids);
    else {
      const worker = new Worker(new URL(import.meta.url));
      worker.once('message', others => console.log(JSON.stringify([...ids, ...others])));
    }
  `;
  const file = path.join(folder, 'make.ts');
  const { writeFile } = await import('node:fs/promises');
  await writeFile(file, code);
  const outputs = await Promise.all(
    Array.from({ length: 3 }, () =>
      promisify(execFile)(process.execPath, [file], {
        env: { ...process.env, TMPDIR: folder, NODE_OPTIONS: '' },
        maxBuffer: 2 ** 24,
      }),
    ),
  );
  const ids = outputs.flatMap(({ stdout }) => JSON.parse(stdout) as string[]);
  expect(ids).toHaveLength(12_000);
  expect(new Set(ids).size).toBe(12_000);
});

test('a seat that was left is taken again, one that is held is not', () => {
  const seats = Array.from({ length: PROCESSES }, () => takeSeat(folder));
  expect(new Set(seats.map(({ number }) => number)).size).toBe(PROCESSES);
  expect(() => takeSeat(folder)).toThrow(NoSeat);
  seats[7]!.leave();
  expect(takeSeat(folder).number).toBe(seats[7]!.number);
});

test('a holder whose file was cleaned away takes another seat, and goes on rising', () => {
  let clock = ID_EPOCH_MS + 5_000;
  const maker = new IdMaker(
    () => takeSeat(folder, () => clock),
    () => clock,
  );
  const before = maker.next();
  for (const name of readdirSync(folder)) rmSync(path.join(folder, name));
  clock += 60_000;
  expect(BigInt(maker.next())).toBeGreaterThan(BigInt(before));
  expect(readdirSync(folder)).toHaveLength(1);
});

test('a machine has the number that it is given; a wrong one is an error', () => {
  vi.stubEnv('BANYAN_MACHINE', '31');
  expect(Math.floor(takeSeat(folder).number / PROCESSES)).toBe(31);
  for (const wrong of ['32', '-1', 'one', '1.5']) {
    vi.stubEnv('BANYAN_MACHINE', wrong);
    expect(() => takeSeat(folder)).toThrow('0 to 31');
  }
});

test('a folder that cannot be written to is an error that names it', () => {
  expect(() => takeSeat(path.join(folder, 'not', 'there'))).toThrow(NoSeat);
});
