/** `banyan queue`, `queue dead`, `replay`, `discard`, `cancel`: what is in the queue, and what could not be done. */
import pc from 'picocolors';
import type { DeadLetter, DeadLetterFilter, SubscriptionStats } from '../app/queue/engine.ts';
import { BanyanError } from '../errors.ts';
import { withController } from '../operate/controller.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { type QueueView, withQueue } from '../operate/queue/queue.ts';
import { rateOf } from '../operate/queue/rate.ts';
import { type QueueNodeStatus, queueStatus } from '../operate/queue/status.ts';
import { ago, type CommonOptions, columns, duration, EXIT, printJson } from './output.ts';
import { describeQueueAlarm } from './queue-node.ts';

/** How long is looked to tell a rate. */
const LOOK_MS = 1_000;

const PAYLOAD_SHOWN = 200;

export class NoSuchMessage extends BanyanError {
  constructor(command: string, ids: readonly string[]) {
    super('NO_SUCH_MESSAGE', {
      what: `There is no such dead letter: ${ids.join(', ')}`,
      where: command,
      remedy: '`banyan queue dead` shows those that there are',
    });
  }
}

export class WhichMessages extends BanyanError {
  constructor(command: string) {
    super('WHICH_MESSAGES', {
      what: 'It is not said which dead letters are meant',
      where: command,
      remedy: `Give their ids, as \`banyan queue dead\` shows them, or --all: \`${command} --all\``,
    });
  }
}

export interface QueueOptions extends CommonOptions {
  topic?: string;
  limit?: number;
  all?: boolean;
}

export async function list(options: QueueOptions): Promise<void> {
  await onQueue(options, async (queue, nodes) => {
    const before = await queue.stats();
    const since = performance.now();
    await new Promise(resolve => setTimeout(resolve, LOOK_MS));
    const after = await queue.stats();
    const rates = rateOf(before, after, performance.now() - since);
    if (options.json) {
      printJson(after.map((each, index) => ({ ...each, ...rates[index] })));
      return;
    }
    const lines = after.map((each, index) => describe(each, rates[index]!));
    say(
      after.length === 0
        ? 'Nothing was published yet, and nobody has subscribed to anything.'
        : columns([HEADINGS.map(text => pc.dim(text)), ...lines]),
    );
    for (const { topic, subscription, deadLetters } of after) {
      if (deadLetters === 0) continue;
      const letters = `${deadLetters} dead ${deadLetters === 1 ? 'letter' : 'letters'}`;
      say(
        pc.yellow(`  ${topic}/${subscription}: ${letters}. See them: banyan queue dead ${topic}`),
      );
    }
    for (const { topic, subscription, depth } of after) {
      if (subscription !== null) continue;
      say(
        pc.yellow(
          `  ${topic}: nobody has subscribed to it; ${depth} messages wait for who does, for 14 days at most`,
        ),
      );
    }
    for (const line of (await nodes()).flatMap(describeQueueAlarm)) say(line);
  });
}

const HEADINGS = [
  'topic',
  'subscription',
  'depth',
  'in hand',
  'later',
  'oldest',
  'done/s',
  'failed/s',
  'failed',
  'dead',
  'workers',
];

function describe(
  {
    topic,
    subscription,
    depth,
    leased,
    delayed,
    oldestMs,
    failed,
    deadLetters,
    ...rest
  }: SubscriptionStats,
  rate: { donePerSecond: number; failedPerSecond: number },
): string[] {
  return [
    topic,
    subscription ?? pc.yellow('–'),
    String(depth),
    String(leased),
    String(delayed),
    oldestMs === null ? '' : duration(oldestMs),
    rate.donePerSecond.toFixed(0),
    rate.failedPerSecond.toFixed(0),
    failed > 0 ? pc.yellow(String(failed)) : '0',
    deadLetters > 0 ? pc.red(String(deadLetters)) : '0',
    rest.workers === 0 && depth > 0 ? pc.yellow('0') : String(rest.workers),
  ];
}

export async function dead(topic: string | undefined, options: QueueOptions): Promise<void> {
  await onQueue(options, async queue => {
    const filter = topic === undefined ? {} : { topic };
    const letters = await queue.deadLetters(filter, options.limit);
    if (options.json) printJson(letters);
    else say(letters.length === 0 ? 'No dead letters.' : letters.map(describeLetter).join('\n'));
  });
}

function describeLetter(letter: DeadLetter): string {
  const { id, topic, subscription, key, payload, attempts, error, diedAt } = letter;
  const text = JSON.stringify(payload);
  const shown = text.length > PAYLOAD_SHOWN ? `${text.slice(0, PAYLOAD_SHOWN)}…` : text;
  const keyed = key === null ? '' : pc.dim(` key ${key}`);
  const head = `${pc.bold(id)} ${topic}/${subscription}${keyed} ${pc.dim(`${attempts} attempts, ${ago(diedAt.toISOString())} ago`)}`;
  return [head, `  ${shown}`, ...error.split('\n').map(line => pc.red(`  │ ${line}`))].join('\n');
}

/** @throws WhichMessages, NoSuchMessage */
export async function replay(ids: string[], options: QueueOptions): Promise<void> {
  const count = await onLetters('banyan queue replay', ids, options, (queue, filter) =>
    queue.replay(filter),
  );
  if (options.json) printJson({ replayed: count });
  else say(`${pc.green('✔')} ${count} ${count === 1 ? 'is' : 'are'} delivered again`);
}

/** @throws WhichMessages, NoSuchMessage */
export async function discard(ids: string[], options: QueueOptions): Promise<void> {
  const count = await onLetters('banyan queue discard', ids, options, (queue, filter) =>
    queue.discard(filter),
  );
  if (options.json) printJson({ discarded: count });
  else say(`${pc.green('✔')} ${count} dead ${count === 1 ? 'letter' : 'letters'} deleted`);
}

export async function cancel(id: string, options: QueueOptions): Promise<void> {
  await onQueue(options, async queue => {
    const cancelled = await queue.cancel(id);
    if (options.json) printJson({ cancelled });
    else if (cancelled) say(`${pc.green('✔')} ${id} is taken back`);
    else {
      say(
        `${pc.yellow('●')} ${id} cannot be taken back: it is done, in a worker's hand, or there is none`,
      );
    }
    if (!cancelled) process.exitCode = EXIT.failed;
  });
}

async function onLetters(
  command: string,
  ids: string[],
  options: QueueOptions,
  act: (queue: QueueView, filter: DeadLetterFilter) => Promise<number>,
): Promise<number> {
  if (ids.length === 0 && !options.all) throw new WhichMessages(command);
  const { topic } = options;
  const filter = { ...(ids.length > 0 ? { ids } : {}), ...(topic ? { topic } : {}) };
  const count = await onQueue(options, queue => act(queue, filter));
  if (count === 0 && ids.length > 0) throw new NoSuchMessage(command, ids);
  return count;
}

function onQueue<T>(
  { dir }: CommonOptions,
  body: (queue: QueueView, nodes: () => Promise<QueueNodeStatus[]>) => Promise<T>,
): Promise<T> {
  return withController(
    new DeploymentPaths(dir),
    controller => {
      const nodes = async () => (await queueStatus(await controller.machine.states())) ?? [];
      return withQueue(controller, queue => body(queue, nodes));
    },
    { withoutConfig: true },
  );
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
