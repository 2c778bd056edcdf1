/**
 * The API's tokens: a JWT that names the user. Any server can check it, since all have the same key.
 */
import { hkdfSync, randomBytes } from 'node:crypto';
import { sign, verify } from 'hono/jwt';

const LIFETIME_SECONDS = 60 * 24 * 60 * 60;

export interface TokenSubject {
  id: bigint;
  /** A token from before a change of password carries a lower one. */
  credentialsVersion: number;
}

export interface Tokens {
  issue(user: TokenSubject): Promise<string>;
  /** @returns undefined when the token is not ours, damaged or too old */
  read(token: string): Promise<TokenSubject | undefined>;
}

export function createTokens(secret: string | undefined = process.env.BANYAN_SECRET): Tokens {
  const key = Buffer.from(hkdfSync('sha256', required(secret), 'conduit', 'api-token', 32));
  const signingKey = key.toString('base64');
  return {
    issue({ id, credentialsVersion }) {
      const now = Math.floor(Date.now() / 1_000);
      const claims = { sub: String(id), ver: credentialsVersion, iat: now };
      return sign({ ...claims, exp: now + LIFETIME_SECONDS }, signingKey, 'HS256');
    },
    async read(token) {
      try {
        const { sub, ver } = await verify(token, signingKey, 'HS256');
        return { id: BigInt(sub as string), credentialsVersion: ver as number };
      } catch {
        return undefined;
      }
    },
  };
}

function required(secret: string | undefined): string {
  if (secret) return secret;
  if (process.env.NODE_ENV === 'production') {
    throw new Error(
      'BANYAN_SECRET is not set, and without it no token can be signed. Start Conduit with `banyan up`, ' +
        'which generates one, or set BANYAN_SECRET to at least 32 random characters.',
    );
  }
  return randomBytes(32).toString('base64');
}
