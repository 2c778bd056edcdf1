/** Messages that travel together arrive as they were, once each, and each caller hears of his own. */
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { OutgoingMessage } from '../../../../src/app/queue/engine.ts';
import {
  charactersOf,
  fitsTogether,
  inBundles,
  pack,
  unpack,
} from '../../../../src/app/queue/rabbitmq/bundle.ts';
import { Lane } from '../../../../src/app/queue/rabbitmq/lane.ts';

let ids = 0;
const message = (payload: unknown): OutgoingMessage => ({
  id: String(++ids),
  topic: 'any',
  payload: JSON.stringify(payload),
  key: undefined,
  priority: 0,
  delayMs: 0,
  dedupe: undefined,
});

const idsOf = (messages: readonly { id: string }[]) => messages.map(({ id }) => id);

/** Most are small; a few do not fit beside others. */
const payloads = fc.oneof(
  { weight: 8, arbitrary: fc.jsonValue() },
  { weight: 1, arbitrary: fc.nat(20_000).map(length => 'x'.repeat(length)) },
);
const several = fc
  .array(payloads, { minLength: 1, maxLength: 60 })
  .map(given => given.map(message));

test('cut into bundles, packed and unpacked they are the same, in the same order', () => {
  fc.assert(
    fc.property(several, messages => {
      const bundles = inBundles(messages);
      for (const bundle of bundles) {
        expect(bundle.length === 1 || fitsTogether(bundle.length, charactersOf(bundle))).toBe(true);
      }
      const arrived = bundles.flatMap(bundle => unpack(pack(bundle)));
      expect(arrived).toEqual(messages.map(({ id, payload }) => ({ id, payload })));
    }),
  );
});

test('each is carried once, and each caller is told what became of his, whatever becomes of the bundles', async () => {
  const fates = fc.constantFrom('taken', 'refused', 'uncertain');
  const callers = fc.array(fc.record({ messages: several, turns: fc.nat(3) }), {
    minLength: 1,
    maxLength: 12,
  });
  await fc.assert(
    fc.asyncProperty(
      callers,
      fc.infiniteStream(fc.record({ fate: fates, turns: fc.nat(3) })),
      async (given, stream) => {
        const fateOf = new Map<string, string>();
        const lane = new Lane(async messages => {
          const { fate, turns } = stream.next().value;
          for (const { id } of messages) {
            expect(fateOf.has(id)).toBe(false);
            fateOf.set(id, fate);
          }
          for (let i = 0; i < turns; i++) await turn();
          if (fate === 'uncertain') throw new Error('nobody knows');
          return fate === 'taken';
        });
        await Promise.all(
          given.map(async ({ messages, turns }) => {
            for (let i = 0; i < turns; i++) await turn();
            const { refused, uncertain, cause } = await lane.publish(messages);
            const having = (fate: string) => idsOf(messages).filter(id => fateOf.get(id) === fate);
            expect(idsOf(messages).every(id => fateOf.has(id))).toBe(true);
            expect(idsOf(refused)).toEqual(having('refused'));
            expect(idsOf(uncertain)).toEqual(having('uncertain'));
            expect(cause !== undefined).toBe(uncertain.length > 0);
          }),
        );
      },
    ),
    { numRuns: 200 },
  );
});

/** A lane whose bundles arrive when the test says so. */
function heldLane() {
  const underWay: { messages: readonly OutgoingMessage[]; arrive: () => void }[] = [];
  const lane = new Lane(messages => {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    underWay.push({ messages, arrive: () => resolve(true) });
    return promise;
  });
  return { lane, underWay };
}

test('what is published in one turn goes together; while bundles are on their way others gather', async () => {
  const { lane, underWay } = heldLane();
  const outcomes: Promise<unknown>[] = [];
  const publish = (count: number) => {
    for (let i = 0; i < count; i++) outcomes.push(lane.publish([message(i)]));
    return turn();
  };
  await publish(3);
  expect(underWay.map(({ messages }) => messages.length)).toEqual([3]);
  for (let i = 0; i < 8; i++) await publish(1);
  const alone = underWay.length;
  expect(alone).toBeLessThan(8);
  underWay[0]!.arrive();
  await turn();
  expect(underWay).toHaveLength(alone + 1);
  expect(underWay.at(-1)!.messages.length).toBeGreaterThan(1);
  for (const { arrive } of underWay) arrive();
  expect(await Promise.all(outcomes)).toHaveLength(11);
});

test('who fills a bundle waits for nobody', async () => {
  const { lane, underWay } = heldLane();
  const big = Array.from({ length: 40 }, (_, i) => lane.publish([message('x'.repeat(10_000 + i))]));
  await turn();
  // All but the last, which might have company yet.
  expect(underWay.length).toBeGreaterThanOrEqual(39);
  for (const { arrive } of underWay) arrive();
  await turn();
  for (const { arrive } of underWay) arrive();
  expect(await Promise.all(big)).toHaveLength(40);
});

test('what has not been sent when RabbitMQ takes no more is refused, not uncertain', async () => {
  const { lane, underWay } = heldLane();
  const sent: Promise<unknown>[] = [];
  for (let i = 0; i < 8; i++) {
    sent.push(lane.publish([message(i)]));
    await turn();
  }
  const waiting = message('late');
  const late = lane.publish([waiting]);
  lane.refuse();
  expect(await late).toMatchObject({ refused: [waiting], uncertain: [] });
  for (const { arrive } of underWay) arrive();
  await Promise.all(sent);
});
