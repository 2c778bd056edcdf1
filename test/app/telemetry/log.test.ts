import { expect, test } from 'vitest';
import { runProgram } from '../../support/deployment.ts';

const LOG = new URL('../../../src/app/telemetry/log.ts', import.meta.url).href;
const CONTEXT = new URL('../../../src/app/telemetry/request-context.ts', import.meta.url).href;

/** The lines that a process of its own writes: what a supervisor would see. */
async function linesOf(body: string, env: NodeJS.ProcessEnv = {}) {
  const script = `
    const { log } = await import(${JSON.stringify(LOG)});
    const { withRequestContext } = await import(${JSON.stringify(CONTEXT)});
    ${body}`;
  const { code, stdout, stderr } = await runProgram(
    process.execPath,
    ['--input-type=module', '-e', script],
    { env },
  );
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return stdout
    .split('\n')
    .filter(Boolean)
    .map(line => JSON.parse(line) as Record<string, unknown>);
}

test('a line carries the id of the request in which it is written, also in async code', async () => {
  const lines = await linesOf(`
    log.info('outside');
    await withRequestContext({ requestId: 'r-1' }, async () => {
      await new Promise(resolve => setImmediate(resolve));
      log.child({ part: 'x' }).info('inside');
    });`);
  expect(lines).toMatchObject([
    { level: 30, msg: 'outside' },
    { msg: 'inside', part: 'x', requestId: 'r-1' },
  ]);
  expect(lines[0]).not.toHaveProperty('requestId');
});

test('passwords, tokens and cookies are hidden, at the top and two objects deep', async () => {
  const [line] = await linesOf(`
    log.info({
      password: 's3cret', user: { token: 's3cret', name: 'Ada' },
      req: { headers: { authorization: 's3cret', cookie: 's3cret' } },
      res: { headers: { 'set-cookie': ['s3cret'] } },
    }, 'x');`);
  expect(JSON.stringify(line)).not.toContain('s3cret');
  expect(line).toMatchObject({ password: '[hidden]', user: { name: 'Ada' } });
});

test('the error of a broken connection is logged without the insides of the connection', async () => {
  const [line] = await linesOf(`
    const err = Object.assign(new Error('broke'), { code: '57P01', client: { secretKey: 42 } });
    log.warn({ err }, 'x');`);
  expect(line).toMatchObject({ err: { message: 'broke', code: '57P01' } });
  expect(line!.err).not.toHaveProperty('client');
});

test.each([
  ['debug', ['debug', 'info']],
  ['WARN', []],
  ['', ['info']],
])('LOG_LEVEL=%s', async (level, expected) => {
  const lines = await linesOf(`log.debug('debug'); log.info('info');`, { LOG_LEVEL: level });
  expect(lines.map(({ msg }) => msg)).toEqual(expected);
});

test('a LOG_LEVEL that does not exist is named and does not stop the application', async () => {
  const lines = await linesOf(`log.info('runs');`, { LOG_LEVEL: 'chatty' });
  expect(lines.map(({ msg }) => msg)).toEqual([
    expect.stringContaining('LOG_LEVEL is chatty'),
    'runs',
  ]);
});
