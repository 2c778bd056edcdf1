/** The schemas of what runs the application: `web`, `balancer`, `workers`. */
import * as v from 'valibot';
import {
  AN_OBJECT,
  clean,
  either,
  flag,
  isPlainObject,
  object,
  path,
  port,
  text,
  timeoutMs,
  whole,
} from './values.ts';

/** Environment variables that Banyan sets for an application, besides all that begin with `BANYAN_`. */
const OWN_VARIABLES = ['PORT', 'HOST', 'DATABASE_URL'];

const variables = v.pipe(
  v.custom<Record<string, string>>(isPlainObject, AN_OBJECT),
  v.record(
    v.pipe(
      v.string(),
      v.regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'a name of letters, digits and _'),
      v.check(
        name => !OWN_VARIABLES.includes(name) && !name.startsWith('BANYAN_'),
        'another variable: this one Banyan sets itself',
      ),
    ),
    v.pipe(v.string('text'), clean),
  ),
);

const A_PART = 'a number from 0.05 to 1';
const bounds = v.pipe(
  object({
    min: whole(1, 1_000),
    max: whole(1, 1_000),
    scaleDownAfterMs: v.optional(timeoutMs),
    target: v.optional(v.pipe(v.number(A_PART), v.minValue(0.05, A_PART), v.maxValue(1, A_PART))),
  }),
  v.forward(
    v.partialCheck([['min'], ['max']], ({ min, max }) => min <= max, 'at least `min`'),
    ['max'],
  ),
);

const workerBounds = v.pipe(
  object({
    min: whole(0, 1_000),
    max: whole(0, 1_000),
    depth: v.optional(whole(1, 1_000_000)),
    ageMs: v.optional(whole(100, 86_400_000)),
    scaleDownAfterMs: v.optional(timeoutMs),
  }),
  v.forward(
    v.partialCheck([['min'], ['max']], ({ min, max }) => min <= max, 'at least `min`'),
    ['max'],
  ),
);

const addresses = v.pipe(
  v.array(text, 'a list of addresses'),
  v.minLength(1, 'at least one address'),
  v.check(list => new Set(list).size === list.length, 'addresses that are all different'),
);

export const balancer = v.pipe(
  object({
    algorithm: v.optional(
      v.picklist(['roundrobin', 'leastconn', 'random'], 'roundrobin, leastconn or random'),
    ),
    addresses: v.optional(addresses),
    virtualAddress: v.optional(text),
    tls: v.optional(
      object({
        port: v.optional(whole(1, 65_535)),
        certificate: v.optional(text),
        redirect: v.optional(flag),
      }),
    ),
    rateLimit: v.optional(
      object({ requests: whole(1, 1_000_000), windowSeconds: v.optional(whole(1, 3_600)) }),
    ),
    maxBodyMb: v.optional(whole(1, 100_000)),
    responseTimeoutMs: v.optional(timeoutMs),
    checkTimeoutMs: v.optional(timeoutMs),
    queueTimeoutMs: v.optional(timeoutMs),
    tunnelTimeoutMs: v.optional(whole(1, 86_400_000)),
  }),
  v.forward(
    v.partialCheck(
      [['virtualAddress'], ['addresses']],
      tier => tier.virtualAddress === undefined || (tier.addresses?.length ?? 0) >= 2,
      'two `addresses` for it to move between',
    ),
    ['virtualAddress'],
  ),
);

export const web = object(
  {
    command: v.optional(text),
    port: v.optional(port),
    host: v.optional(text),
    ready: v.optional(path),
    startTimeoutMs: v.optional(timeoutMs),
    drainTimeoutMs: v.optional(timeoutMs),
    env: v.optional(variables),
    servers: v.optional(either(bounds, whole(1, 1_000, ', or { min, max }'))),
    weights: v.optional(v.array(whole(1, 256), 'a list of numbers')),
    maxConcurrency: v.optional(whole(1, 10_000)),
    sticky: v.optional(flag),
    build: v.optional(text),
  },
  'an object { … }, such as { servers: 2 }',
);

export const workers = object(
  {
    servers: v.optional(either(workerBounds, whole(0, 1_000, ', or { min, max }'))),
    command: v.optional(text),
    env: v.optional(variables),
    startTimeoutMs: v.optional(timeoutMs),
    drainTimeoutMs: v.optional(timeoutMs),
    memoryMb: v.optional(whole(32, 1_000_000)),
  },
  'an object { … }, such as { servers: 2 }',
);
