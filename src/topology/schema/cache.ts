/** The schema of `cache`. */
import * as v from 'valibot';
import { FEWEST_IN_CLUSTER } from '../defaults.ts';
import { either, object, protocolOf, text, whole } from './values.ts';

const A_REDIS_URL = 'a URL such as redis://user:password@host:6379, or rediss:// with TLS';
const A_NUMBER_OF_CACHES =
  '0, 1, or a whole number from 3 to 16: of two nobody could tell which is lost';
const cacheTier = v.pipe(
  object(
    {
      servers: v.optional(
        v.pipe(
          whole(0, 16),
          v.check(number => number !== 2, A_NUMBER_OF_CACHES),
        ),
      ),
      replicas: v.optional(whole(0, 5)),
      memoryMb: v.optional(whole(8, 1_000_000)),
      url: v.optional(
        v.pipe(
          text,
          v.check(value => /^rediss?:$/.test(protocolOf(value)), A_REDIS_URL),
        ),
      ),
      invalidators: v.optional(whole(1, 5)),
    },
    'true, false, or an object { … } such as { servers: 1 }',
  ),
  v.forward(
    v.partialCheck(
      [['replicas'], ['servers']],
      tier => !tier.replicas || (tier.servers ?? 1) >= FEWEST_IN_CLUSTER,
      '`servers: 3` or more beside `replicas`: a single Redis that is lost is started again, empty',
    ),
    ['replicas'],
  ),
  v.forward(
    v.partialCheck(
      [['url'], ['servers']],
      tier => !(tier.url && tier.servers !== undefined),
      'no `servers` beside `url`: Banyan does not run that Redis',
    ),
    ['servers'],
  ),
);

export const cache = either(
  cacheTier,
  v.boolean('true, false, or an object { … } such as { servers: 1 }'),
);
