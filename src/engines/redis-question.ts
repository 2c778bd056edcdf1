/**
 * One question to one Redis server, over a connection of its own: for probes and the status, which ask often and must not
 * wait for the library to be loaded.
 *
 * (https://redis.io/docs/latest/develop/reference/protocol-spec/: of its answers, those that are one text)
 */
import { connect } from 'node:net';
import type { RedisAddress } from './redis-client.ts';

/**
 * @returns the answer's text
 * @throws what the server says against it, or that it does not answer
 */
export function askRedis(
  { host, port, password }: Pick<RedisAddress, 'host' | 'port' | 'password'>,
  words: readonly string[],
  timeoutMs: number,
): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const socket = connect({ host, port });
  let received = Buffer.alloc(0);
  const timer = setTimeout(
    () => socket.destroy(new Error(`it did not answer within ${timeoutMs} ms`)),
    timeoutMs,
  );
  socket.once('connect', () => {
    if (password !== undefined) socket.write(render(['AUTH', password]));
    socket.write(render(words));
  });
  const expected = password === undefined ? 1 : 2;
  socket.on('data', chunk => {
    received = Buffer.concat([received, chunk]);
    try {
      const answers = parseTexts(received);
      if (answers.length < expected) return;
      resolve(answers[expected - 1]!);
      socket.destroy();
    } catch (error) {
      socket.destroy(error as Error);
    }
  });
  socket.on('error', reject);
  socket.once('close', () => {
    clearTimeout(timer);
    reject(new Error('it closed the connection'));
  });
  return promise;
}

function render(words: readonly string[]): string {
  const parts = words.map(word => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
  return `*${words.length}\r\n${parts.join('')}`;
}

/** The answers that are there whole. @throws for one that is an error */
export function parseTexts(bytes: Buffer): string[] {
  const answers: string[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf('\r\n', at);
    if (end < 0) break;
    const line = bytes.toString('utf8', at + 1, end);
    const kind = String.fromCharCode(bytes[at]!);
    if (kind === '-') throw new Error(line);
    if (kind !== '$') {
      answers.push(line);
      at = end + 2;
      continue;
    }
    const length = Math.max(0, Number(line));
    if (bytes.length < end + 2 + length + 2) break;
    answers.push(bytes.toString('utf8', end + 2, end + 2 + length));
    at = end + 2 + length + 2;
  }
  return answers;
}
