/**
 * The fill rule against every interleaving of a load, a commit, its decoding, its invalidation and the fill, on a primary
 * and on a standby. The model is the smallest that has the trap: on a primary a commit is in the log, and may be told, before it is
 * visible; on a standby what has been replayed is visible, and its snapshot lists nothing that is in progress.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { InvalidationMemory } from '../../../src/app/cache/memory.ts';
import type { Position } from '../../../src/app/cache/position.ts';

type Rule =
  | 'right'
  | 'none'
  | 'lsn on the primary'
  | 'snapshot on the standby'
  | 'position after the read';

const TAG = 'public.t#id=1';
const OTHER = 'public.t#id=2';

/** A primary, its standby, its log and a process with its memory. */
class World {
  #xid = 100n;
  #lsn = 1_000n;
  #value = 0;
  /** In the log, in the order of their commits. */
  readonly log: { xid: bigint; lsn: bigint; tag: string; value: number }[] = [];
  readonly #running = new Map<bigint, { tag: string; value: number }>();
  readonly #visible = new Set<bigint>();
  #replayed = 0;
  #told = 0;
  #toldTo = 1_000n;
  readonly memory = new InvalidationMemory(8);

  constructor() {
    this.memory.follow(['1']);
    this.memory.note({
      kind: 'batch',
      batch: { cluster: '1', from: 1_000n, upto: 1_000n, invalidations: [] },
    });
    this.memory.noteSnapshot('1', this.position('primary', 'right'), 0);
  }

  begin(tag: string): void {
    this.#running.set(this.#xid++, { tag, value: ++this.#value });
  }

  /** The commit record is in the log; nobody sees it yet. */
  logCommit(): void {
    const [first] = this.#running;
    if (!first) return;
    const [xid, change] = first;
    if (this.log.some(each => each.xid === xid)) return;
    this.#lsn += 10n;
    this.log.push({ xid, lsn: this.#lsn, ...change });
  }

  /** One of those whose commit is in the log becomes visible, in any order. */
  show(which: number): void {
    const logged = this.log.filter(({ xid }) => this.#running.has(xid));
    const shown = logged[which % Math.max(1, logged.length)];
    if (!shown) return;
    this.#running.delete(shown.xid);
    this.#visible.add(shown.xid);
  }

  replay(): void {
    if (this.#replayed < this.log.length) this.#replayed++;
  }

  /** The next of the log is decoded and told. */
  tell(): void {
    const next = this.log[this.#told];
    if (!next) return;
    this.#told++;
    const { xid, lsn, tag } = next;
    const batch = {
      cluster: '1',
      from: this.#toldTo,
      upto: lsn,
      invalidations: [{ xid: Number(xid), lsn, tags: [tag] }],
    };
    this.memory.note({ kind: 'batch', batch });
    this.#toldTo = lsn;
  }

  get toldTo(): bigint {
    return this.#toldTo;
  }

  position(where: 'primary' | 'standby', rule: Rule): Position {
    const replayedTo = this.log[this.#replayed - 1]?.lsn ?? 1_000n;
    if (where === 'standby') {
      if (rule !== 'snapshot on the standby') return { kind: 'replayed', lsn: replayedTo };
      // As a standby answers: nothing is in progress.
      const snapshot = { xmin: this.#xid, xmax: this.#xid, running: new Set<bigint>() };
      return { kind: 'snapshot', snapshot, lsn: this.#lsn, before: this.#lsn };
    }
    if (rule === 'lsn on the primary') return { kind: 'replayed', lsn: this.#lsn };
    const [first] = this.#running.keys();
    const running = new Set(this.#running.keys());
    const snapshot = { xmin: first ?? this.#xid, xmax: this.#xid, running };
    return { kind: 'snapshot', snapshot, lsn: this.#lsn, before: this.#lsn };
  }

  /** What a read gives: the last value that is visible there, in the order of the log. */
  read(where: 'primary' | 'standby'): number {
    const seen =
      where === 'primary'
        ? this.log.filter(({ xid }) => this.#visible.has(xid))
        : this.log.slice(0, this.#replayed);
    return seen.findLast(({ tag }) => tag === TAG)?.value ?? 0;
  }

  /** What an entry has to hold, once everything up to `upto` has been told. */
  valueAt(upto: bigint): number {
    return this.log.findLast(({ tag, lsn }) => tag === TAG && lsn <= upto)?.value ?? 0;
  }
}

type Step =
  | 'begin'
  | 'begin other'
  | 'log'
  | 'show'
  | 'replay'
  | 'tell'
  | 'start'
  | 'read'
  | 'fill';

const STEPS: Step[] = [
  'begin',
  'begin other',
  'log',
  'show',
  'replay',
  'tell',
  'start',
  'read',
  'fill',
];
const scripts = fc.record({
  where: fc.constantFrom('primary' as const, 'standby' as const),
  steps: fc.array(fc.tuple(fc.constantFrom(...STEPS), fc.nat(3)), { minLength: 1, maxLength: 40 }),
});

/** @returns how an entry was stale at some moment; undefined when none ever was */
function run(
  { where, steps }: { where: 'primary' | 'standby'; steps: [Step, number][] },
  rule: Rule,
) {
  const world = new World();
  let position: Position | undefined;
  let read: number | undefined;
  let entry: { value: number; position: Position } | undefined;
  for (const [step, which] of steps) {
    if (step === 'begin') world.begin(TAG);
    else if (step === 'begin other') world.begin(OTHER);
    else if (step === 'log') world.logCommit();
    else if (step === 'show') world.show(which);
    else if (step === 'replay') world.replay();
    else if (step === 'tell') world.tell();
    else if (step === 'start') position ??= world.position(where, rule);
    else if (step === 'read' && position) {
      read ??= world.read(where);
    } else if (step === 'fill' && position && read !== undefined && !entry) {
      if (rule === 'position after the read') position = world.position(where, rule);
      const judged = world.memory.judge([TAG], { '1': position });
      if (rule === 'none' || judged.kind === 'holds') entry = { value: read, position };
    }
    // What is told later drops it, by the same comparison, unless its position sees the change.
    if (
      entry &&
      rule !== 'none' &&
      world.memory.judge([TAG], { '1': entry.position }).kind !== 'holds'
    ) {
      entry = undefined;
      position = undefined;
      read = undefined;
    }
    if (entry && entry.value < world.valueAt(world.toldTo))
      return { ...entry, toldTo: world.toldTo };
  }
  return undefined;
}

test('with the rule no entry ever holds what was replaced, once that was told', () => {
  fc.assert(
    fc.property(scripts, script => run(script as never, 'right') === undefined),
    { numRuns: 20_000 },
  );
});

/** What a checker that cannot fail would prove is nothing: each part of the rule is needed. */
for (const [rule, where] of [
  ['none', undefined],
  ['lsn on the primary', 'primary'],
  ['snapshot on the standby', 'standby'],
  ['position after the read', undefined],
] as const) {
  test(`stale entries are found when the rule is: ${rule}`, () => {
    const found = fc.check(
      fc.property(
        scripts.filter(script => where === undefined || script.where === where),
        script => run(script as never, rule) === undefined,
      ),
      { numRuns: 50_000 },
    );
    expect(found.failed).toBe(true);
  });
}

test('what the memory has forgotten is not known to hold', () => {
  const memory = new InvalidationMemory(4);
  memory.follow(['1']);
  memory.note({ kind: 'batch', batch: { cluster: '1', from: 10n, upto: 10n, invalidations: [] } });
  const before: Position = { kind: 'replayed', lsn: 10n };
  expect(memory.judge(['x'], { '1': before })).toEqual({ kind: 'holds' });
  for (let i = 11n; i < 30n; i++) {
    const invalidations = [{ xid: Number(i), lsn: i, tags: [`t${i}`] }];
    memory.note({ kind: 'batch', batch: { cluster: '1', from: i - 1n, upto: i, invalidations } });
  }
  expect(memory.judge(['x'], { '1': before })).toEqual({ kind: 'unknown', cluster: '1' });
  expect(memory.judge(['x'], { '1': before }, { '1': 25n })).toEqual({ kind: 'holds' });
  expect(memory.judge(['t29'], { '1': before }, { '1': 25n })).toEqual({
    kind: 'overtaken',
    by: 't29',
  });
});

test('a table that is written to all the time is told apart by its last writes', () => {
  const memory = new InvalidationMemory();
  memory.follow(['1']);
  memory.note({ kind: 'batch', batch: { cluster: '1', from: 0n, upto: 0n, invalidations: [] } });
  for (let i = 1n; i <= 500n; i++) {
    const invalidations = [{ xid: Number(i), lsn: i, tags: ['hot'] }];
    memory.note({ kind: 'batch', batch: { cluster: '1', from: i - 1n, upto: i, invalidations } });
  }
  expect(memory.judge(['hot'], { '1': { kind: 'replayed', lsn: 500n } }).kind).toBe('holds');
  expect(memory.judge(['hot'], { '1': { kind: 'replayed', lsn: 499n } }).kind).toBe('overtaken');
  expect(memory.judge(['hot'], { '1': { kind: 'replayed', lsn: 2n } }).kind).toBe('overtaken');
});

test('a hole in what is told, and a gap: nothing is known to hold until it goes on', () => {
  const memory = new InvalidationMemory();
  memory.follow(['1', '2']);
  const batch = (cluster: string, from: bigint, upto: bigint) =>
    memory.note({ kind: 'batch', batch: { cluster, from, upto, invalidations: [] } });
  const at = (lsn: bigint): Position => ({ kind: 'replayed', lsn });
  batch('1', 0n, 5n);
  expect(memory.judge([], { '1': at(5n), '2': at(5n) })).toEqual({ kind: 'unknown', cluster: '2' });
  batch('2', 0n, 5n);
  expect(memory.judge([], { '1': at(5n), '2': at(5n) })).toEqual({ kind: 'holds' });
  expect(batch('1', 7n, 9n)).toBe(false);
  expect(memory.judge([], { '1': at(5n), '2': at(5n) })).toEqual({ kind: 'unknown', cluster: '1' });
  expect(memory.judge([], { '1': at(7n), '2': at(5n) })).toEqual({ kind: 'holds' });
  memory.note({ kind: 'gap', cluster: '2', upto: undefined, reason: 'test' });
  expect(memory.isWhole).toBe(false);
  expect(memory.judge([], { '1': at(9n), '2': at(9n) })).toEqual({ kind: 'unknown', cluster: '2' });
});
