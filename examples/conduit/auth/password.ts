/**
 * Passwords: scrypt (RFC 7914), with its parameters in the stored text, so that they can be raised
 * without a migration.
 *
 * N = 2^15, r = 8, p = 1 takes 32 MiB and about 80 ms for one guess: OWASP's advice for servers that
 * cannot have argon2id, which Node has only since 24.7.
 */
import { randomBytes, scrypt, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';
import { Turnstile } from './turnstile.ts';

const PARAMETERS = { N: 2 ** 15, r: 8, p: 1 };
const SALT_BYTES = 16;
const KEY_BYTES = 32;

/** Two of Node's four threads; two hundred take about ten seconds, more than anybody waits. */
const turnstile = new Turnstile(2, 200);

const derive = promisify<string, Buffer, number, object, Buffer>(scrypt);

/** `scrypt$N$r$p$salt$key`, the last two in base64url. */
export async function hashPassword(password: string): Promise<string> {
  const { N, r, p } = PARAMETERS;
  const salt = randomBytes(SALT_BYTES);
  const key = await deriveKey(password, salt, PARAMETERS);
  return ['scrypt', N, r, p, salt.toString('base64url'), key.toString('base64url')].join('$');
}

/**
 * @param stored undefined when there is no such user: it takes as long as a wrong password, so that
 * nobody learns from the time which addresses have an account
 */
export async function isPassword(password: string, stored: string | undefined): Promise<boolean> {
  const [, N, r, p, salt, key] = (stored ?? NOBODY).split('$');
  const right = Buffer.from(key!, 'base64url');
  const parameters = { N: Number(N), r: Number(r), p: Number(p) };
  const given = await deriveKey(password, Buffer.from(salt!, 'base64url'), parameters);
  return timingSafeEqual(given, right) && stored !== undefined;
}

/** One text may be typed in several Unicode forms. */
function deriveKey(password: string, salt: Buffer, parameters: typeof PARAMETERS): Promise<Buffer> {
  // Node's own limit of 32 MiB is just too low for these parameters.
  const maxmem = 256 * parameters.N * parameters.r;
  return turnstile.pass(() =>
    derive(password.normalize('NFC'), salt, KEY_BYTES, { ...parameters, maxmem }),
  );
}

const NOBODY = [
  'scrypt',
  PARAMETERS.N,
  PARAMETERS.r,
  PARAMETERS.p,
  randomBytes(SALT_BYTES).toString('base64url'),
  randomBytes(KEY_BYTES).toString('base64url'),
].join('$');
