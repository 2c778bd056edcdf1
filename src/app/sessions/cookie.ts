/**
 * The session cookie: an opaque random id and its signature.
 *
 * The id alone would do for security (256 random bits); the signature lets a forged or damaged
 * cookie be turned away without asking the database.
 */
import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { parseCookie, stringifySetCookie } from 'cookie';

export interface CookieOptions {
  name: string;
  path: string;
  domain: string | undefined;
  sameSite: 'strict' | 'lax' | 'none';
  maxAgeSeconds: number;
}

const ID_BYTES = 32;

export function newSessionId(): string {
  return randomBytes(ID_BYTES).toString('base64url');
}

/** What the store keeps in the place of the id, so that a copy of the table opens no session. */
export function sessionKey(id: string): Buffer {
  return createHash('sha256').update(id).digest();
}

/** `id.signature` */
export function sign(id: string, key: Buffer): string {
  return `${id}.${signature(id, key)}`;
}

/** The id, if the signature is ours. */
export function verify(value: string, key: Buffer): string | undefined {
  const dot = value.lastIndexOf('.');
  if (dot < 0) return undefined;
  const id = value.slice(0, dot);
  const given = Buffer.from(value.slice(dot + 1));
  const right = Buffer.from(signature(id, key));
  return given.length === right.length && timingSafeEqual(given, right) ? id : undefined;
}

/** The value of the session cookie in a `Cookie` header. */
export function readCookie(header: string | undefined, name: string): string | undefined {
  return header ? parseCookie(header)[name] : undefined;
}

/** A `Set-Cookie` header; an undefined `value` clears the cookie. */
export function renderSetCookie(
  value: string | undefined,
  { name, path, domain, sameSite, maxAgeSeconds }: CookieOptions,
  secure: boolean,
): string {
  return stringifySetCookie({
    name,
    value: value ?? '',
    maxAge: value === undefined ? 0 : maxAgeSeconds,
    path,
    ...(domain ? { domain } : {}),
    httpOnly: true,
    sameSite,
    // A browser takes `SameSite=None` only with `Secure`.
    secure: secure || sameSite === 'none',
  });
}

function signature(id: string, key: Buffer): string {
  return createHmac('sha256', key).update(id).digest('base64url');
}
