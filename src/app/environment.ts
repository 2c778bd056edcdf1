/**
 * What `banyan up` tells an application process through its environment, in one place.
 *
 * Everything has a fallback, so that the same application runs without Banyan: in a unit test, or
 * under another supervisor.
 */
import { hkdfSync, randomBytes } from 'node:crypto';
import { BanyanError } from '../errors.ts';
import { MAP_VARIABLE } from '../map/map-file.ts';

/** Tells an application how long its requests in flight may take when it stops. */
export const DRAIN_VARIABLE = 'BANYAN_DRAIN_TIMEOUT_MS';

/** Name and password for the store of the cache, as a URL whose address means nothing: that is in the map. A secret. */
export const CACHE_URL_VARIABLE = 'BANYAN_CACHE_URL';

/** The same for RabbitMQ, if the map names one. A secret. */
export const QUEUE_URL_VARIABLE = 'BANYAN_QUEUE_URL';

export interface Environment {
  /** Path of the runtime map; undefined when the process was not started by Banyan. */
  mapFile: string | undefined;
  databaseUrl: string | undefined;
  /** The unit's name, `web-1`. */
  unit: string;
  production: boolean;
  /** How long the supervisor lets requests in flight finish; undefined when it did not say. */
  drainTimeoutMs: number | undefined;
}

export function readEnvironment(env: NodeJS.ProcessEnv = process.env): Environment {
  return {
    mapFile: env[MAP_VARIABLE],
    databaseUrl: env.DATABASE_URL,
    unit: env.BANYAN_UNIT ?? 'app',
    production: env.NODE_ENV === 'production',
    drainTimeoutMs: wholeNumber(env[DRAIN_VARIABLE]),
  };
}

function wholeNumber(text: string | undefined): number | undefined {
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
}

export class SecretMissing extends BanyanError {
  constructor() {
    super('SECRET_MISSING', {
      what: 'There is no BANYAN_SECRET to derive keys from',
      where: 'the environment',
      remedy:
        'Start the application with `banyan up`, which generates one, or set BANYAN_SECRET to at least 32 random characters',
    });
  }
}

export class SecretTooShort extends BanyanError {
  constructor(length: number) {
    super('SECRET_TOO_SHORT', {
      what: `BANYAN_SECRET has ${length} characters, and whoever guesses it can sign cookies`,
      where: 'the environment',
      remedy: `Set it to at least ${SECRET_LENGTH} random characters: \`openssl rand -base64 32\``,
    });
  }
}

/** Of characters that are random, this many cannot be guessed. */
const SECRET_LENGTH = 32;

let fallbackSecret: string | undefined;

/**
 * A key that is the same in every process of the deployment and different for every purpose:
 * HKDF-SHA256 (RFC 5869) over the deployment's secret.
 * Outside production a process without a secret gets one of its own, so that tests need no set-up.
 * @param purpose a stable name, such as `session-cookie`; different purposes never share a key
 * @throws SecretMissing in production without BANYAN_SECRET; SecretTooShort
 */
export function deriveKey(purpose: string, bytes = 32): Buffer {
  let secret = process.env.BANYAN_SECRET;
  if (!secret) {
    if (process.env.NODE_ENV === 'production') throw new SecretMissing();
    fallbackSecret ??= randomBytes(32).toString('base64url');
    secret = fallbackSecret;
  }
  if (secret.length < SECRET_LENGTH) throw new SecretTooShort(secret.length);
  return deriveKeyFrom(secret, purpose, bytes);
}

/** The same, over a secret that is handed in. */
export function deriveKeyFrom(secret: string, purpose: string, bytes = 32): Buffer {
  return Buffer.from(hkdfSync('sha256', secret, 'banyan', purpose, bytes));
}
