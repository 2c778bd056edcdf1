/** Acknowledgements that are sent together say neither more nor less than each by itself would. */
import fc from 'fast-check';
import type { Channel } from 'rabbitmq-client';
import { expect, test } from 'vitest';
import { Acknowledgements } from '../../../../src/app/queue/rabbitmq/acknowledgements.ts';
import { until } from '../../../support/until.ts';

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

test('in any order, at any times, RabbitMQ waits for what was not settled, and for nothing else', () => {
  const COUNT = 30;
  const steps = fc
    .shuffledSubarray(Array.from({ length: COUNT }, (_, i) => i + 1))
    .chain(tags =>
      fc.tuple(
        ...tags.map(tag =>
          fc.record({ tag: fc.constant(tag), isBack: fc.boolean(), isOver: fc.boolean() }),
        ),
      ),
    );
  fc.assert(
    fc.property(steps, given => {
      const channel = new Outstanding(COUNT);
      const acknowledgements = new Acknowledgements(channel as unknown as Channel, 7);
      for (const { tag, isBack, isOver } of given) {
        if (isBack) acknowledgements.requeue(tag);
        else acknowledgements.acknowledge(tag);
        if (isOver) acknowledgements.flush();
      }
      acknowledgements.flush();
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

test('those that follow each other are one command, and not too many wait for it', async () => {
  const channel = new Outstanding(100);
  const acknowledgements = new Acknowledgements(channel as unknown as Channel, 50);
  for (let tag = 49; tag > 0; tag--) acknowledgements.acknowledge(tag);
  expect(channel.commands).toBe(0);
  acknowledgements.acknowledge(50);
  expect(channel.commands).toBe(1);
  expect(channel.waiting.size).toBe(50);
  acknowledgements.acknowledge(51);
  await until(() => channel.waiting.size === 49, { what: 'it is sent by itself' });
});
