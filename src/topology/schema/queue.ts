/** The schema of `queue`. */
import * as v from 'valibot';
import { either, object, protocolOf, text, whole } from './values.ts';

const AN_AMQP_URL = 'a URL such as amqp://user:password@host:5672, or amqps:// with TLS';
const A_QUEUE = "'postgresql', or an object { … } such as { engine: 'rabbitmq', servers: 3 }";
const A_NUMBER_OF_NODES = '1 or 3: of two neither could go on alone';
const queueTier = v.pipe(
  object(
    {
      engine: v.optional(v.literal('rabbitmq', "'rabbitmq'")),
      servers: v.optional(v.picklist([1, 3], A_NUMBER_OF_NODES)),
      memoryMb: v.optional(whole(192, 1_000_000)),
      freeDiskMb: v.optional(whole(1, 10_000_000)),
      url: v.optional(
        v.pipe(
          text,
          v.check(value => /^amqps?:$/.test(protocolOf(value)), AN_AMQP_URL),
        ),
      ),
    },
    A_QUEUE,
  ),
  v.forward(
    v.partialCheck(
      [['url'], ['servers']],
      tier => !(tier.url && tier.servers !== undefined),
      'no `servers` beside `url`: Banyan does not run that RabbitMQ',
    ),
    ['servers'],
  ),
);

export const queue = either(queueTier, v.literal('postgresql', A_QUEUE));
