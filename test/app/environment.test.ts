import { afterEach, expect, test, vi } from 'vitest';
import {
  deriveKey,
  readEnvironment,
  SecretMissing,
  SecretTooShort,
} from '../../src/app/environment.ts';

afterEach(() => vi.unstubAllEnvs());

const SECRET = 'a'.repeat(32);

test('a key is the same everywhere, and another for every purpose and secret', () => {
  vi.stubEnv('BANYAN_SECRET', SECRET);
  const key = deriveKey('session-cookie');
  expect(key).toHaveLength(32);
  expect(deriveKey('session-cookie').equals(key)).toBe(true);
  expect(deriveKey('other').equals(key)).toBe(false);
  vi.stubEnv('BANYAN_SECRET', 'b'.repeat(32));
  expect(deriveKey('session-cookie').equals(key)).toBe(false);
});

test('without a secret: one of its own for a test, an error in production', () => {
  vi.stubEnv('BANYAN_SECRET', undefined);
  expect(deriveKey('x').equals(deriveKey('x'))).toBe(true);
  vi.stubEnv('NODE_ENV', 'production');
  expect(() => deriveKey('x')).toThrow(SecretMissing);
});

test('a secret that can be guessed is refused, and not shown', () => {
  vi.stubEnv('BANYAN_SECRET', 'changeme');
  expect(() => deriveKey('x')).toThrow(SecretTooShort);
  expect(() => deriveKey('x')).not.toThrow(/changeme/);
});

test('an application runs without Banyan: everything has a fallback', () => {
  expect(readEnvironment({})).toEqual({
    mapFile: undefined,
    databaseUrl: undefined,
    unit: 'app',
    production: false,
    drainTimeoutMs: undefined,
  });
});

test('a drain timeout that is no number is as good as none, not one of no time at all', () => {
  expect(readEnvironment({ BANYAN_DRAIN_TIMEOUT_MS: '2500' }).drainTimeoutMs).toBe(2_500);
  for (const text of ['', 'soon', '-1', 'NaN', 'Infinity']) {
    expect(readEnvironment({ BANYAN_DRAIN_TIMEOUT_MS: text }).drainTimeoutMs).toBeUndefined();
  }
});
