/** Acknowledgements that are sent together say neither more nor less than each by itself would. */
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import type { Channel } from 'rabbitmq-client';
import { expect, test } from 'vitest';
import { Acknowledgements } from '../../../../src/app/queue/rabbitmq/acknowledgements.ts';

/** What RabbitMQ makes of what it is told (rabbit_channel.erl, collect_acks): it closes the channel on a tag that it does not wait for. */
class Outstanding {
  readonly active = true;
  readonly waiting: Set<number>;
  readonly requeued = new Set<number>();
  commands = 0;

  constructor(count: number) {
    this.waiting = new Set(Array.from({ length: count }, (_, i) => i + 1));
  }

  basicAck({ deliveryTag, multiple = false }: { deliveryTag: number; multiple?: boolean }): void {
    this.commands++;
    if (!this.waiting.has(deliveryTag)) throw new Error(`unknown delivery tag ${deliveryTag}`);
    for (const tag of this.waiting) {
      if (tag === deliveryTag || (multiple && tag < deliveryTag)) this.waiting.delete(tag);
    }
  }

  basicNack({ deliveryTag }: { deliveryTag: number }): void {
    if (!this.waiting.delete(deliveryTag)) throw new Error(`unknown delivery tag ${deliveryTag}`);
    this.requeued.add(deliveryTag);
  }
}

test('in any order, in any turns, RabbitMQ waits for what was not settled, and for nothing else', async () => {
  const COUNT = 30;
  const steps = fc
    .shuffledSubarray(Array.from({ length: COUNT }, (_, i) => i + 1))
    .chain(tags =>
      fc.tuple(
        ...tags.map(tag =>
          fc.record({ tag: fc.constant(tag), isBack: fc.boolean(), endsTurn: fc.boolean() }),
        ),
      ),
    );
  await fc.assert(
    fc.asyncProperty(steps, async given => {
      const channel = new Outstanding(COUNT);
      const acknowledgements = new Acknowledgements(channel as unknown as Channel);
      for (const { tag, isBack, endsTurn } of given) {
        if (isBack) acknowledgements.requeue(tag);
        else acknowledgements.acknowledge(tag);
        if (endsTurn) await turn();
      }
      await turn();
      const settled = new Set(given.map(({ tag }) => tag));
      const open = Array.from({ length: COUNT }, (_, i) => i + 1).filter(tag => !settled.has(tag));
      expect([...channel.waiting]).toEqual(open);
      expect(channel.requeued).toEqual(
        new Set(given.filter(({ isBack }) => isBack).map(({ tag }) => tag)),
      );
    }),
    { numRuns: 500 },
  );
});

test('those of one turn that follow each other are one command', async () => {
  const channel = new Outstanding(100);
  const acknowledgements = new Acknowledgements(channel as unknown as Channel);
  for (let tag = 50; tag > 0; tag--) acknowledgements.acknowledge(tag);
  await turn();
  expect(channel.commands).toBe(1);
  expect(channel.waiting.size).toBe(50);
});
