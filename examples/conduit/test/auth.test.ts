/** Passwords and tokens. */
import { describe, expect, test, vi } from 'vitest';
import { hashPassword, isPassword } from '../auth/password.ts';
import { createTokens } from '../auth/token.ts';
import { Turnstile } from '../auth/turnstile.ts';

describe('passwords', () => {
  test('a hash says how it was made, is salted, and fits its password alone', async () => {
    const [one, two] = await Promise.all([hashPassword('Passwört'), hashPassword('Passwört')]);
    expect(one).toMatch(/^scrypt\$32768\$8\$1\$[\w-]{22}\$[\w-]{43}$/);
    expect(one).not.toBe(two);
    expect(await isPassword('Passwört', one)).toBe(true);
    expect(await isPassword('Passwört'.normalize('NFD'), one)).toBe(true);
    expect(await isPassword('passwört', one)).toBe(false);
  });

  test('one that was made with other parameters still fits', async () => {
    // From RFC 7914, section 12, cut to 32 bytes: password, NaCl, N = 1024, r = 8, p = 16.
    const key = Buffer.from(
      'fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162',
      'hex',
    );
    const stored = `scrypt$1024$8$16$${Buffer.from('NaCl').toString('base64url')}$${key.toString('base64url')}`;
    expect(await isPassword('password', stored)).toBe(true);
  });

  test('nobody’s password takes as long as a wrong one', async () => {
    const stored = await hashPassword('right');
    const timed = async (hash: string | undefined) => {
      const times: number[] = [];
      for (let round = 0; round < 5; round++) {
        const begun = performance.now();
        expect(await isPassword('wrong', hash)).toBe(false);
        times.push(performance.now() - begun);
      }
      return times.sort((a, b) => a - b)[2]!;
    };
    const [wrong, nobody] = [await timed(stored), await timed(undefined)];
    expect(nobody).toBeGreaterThan(wrong / 2);
    expect(nobody).toBeLessThan(wrong * 2);
  });
});

describe('the turnstile', () => {
  test('lets a few in at a time, the others in their order, and sends away who is too many', async () => {
    const turnstile = new Turnstile(2, 3);
    const begun: number[] = [];
    const ends: (() => void)[] = [];
    const visit = (number: number) =>
      turnstile.pass(() => {
        begun.push(number);
        return new Promise<void>(resolve => ends.push(resolve));
      });
    const visits = [0, 1, 2, 3, 4].map(visit);
    await expect(visit(5)).rejects.toMatchObject({ status: 503 });
    expect(begun).toEqual([0, 1]);
    while (ends.length > 0) {
      ends.shift()!();
      await new Promise(setImmediate);
    }
    await Promise.all(visits);
    expect(begun).toEqual([0, 1, 2, 3, 4]);
  });

  test('a failure makes room too', async () => {
    const turnstile = new Turnstile(1, 1);
    const failing = () => turnstile.pass(() => Promise.reject(new Error('no')));
    await Promise.allSettled([failing(), failing()]);
    expect(await turnstile.pass(async () => 'in')).toBe('in');
  });
});

describe('tokens', () => {
  const subject = { id: 2n ** 60n, credentialsVersion: 3 };

  test('any server with the same secret reads them, no other', async () => {
    const token = await createTokens('secret').issue(subject);
    expect(await createTokens('secret').read(token)).toEqual(subject);
    expect(await createTokens('other').read(token)).toBeUndefined();
  });

  test('one of another algorithm, a damaged one and an old one are none', async () => {
    const tokens = createTokens('secret');
    const token = await tokens.issue(subject);
    const [, claims] = token.split('.');
    const unsigned = `${btoa('{"alg":"none","typ":"JWT"}')}.${claims}.`;
    for (const bad of [unsigned, token.slice(0, -3), '', 'a.b.c']) {
      expect(await tokens.read(bad)).toBeUndefined();
    }
    vi.useFakeTimers({ now: Date.now() + 61 * 24 * 3_600 * 1_000, toFake: ['Date'] });
    try {
      expect(await tokens.read(token)).toBeUndefined();
    } finally {
      vi.useRealTimers();
    }
  });

  test('in production there is none without a secret', () => {
    vi.stubEnv('NODE_ENV', 'production');
    vi.stubEnv('BANYAN_SECRET', '');
    try {
      expect(() => createTokens()).toThrow(/BANYAN_SECRET is not set.*banyan up/);
    } finally {
      vi.unstubAllEnvs();
    }
  });
});
