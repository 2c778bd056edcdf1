/** The whole of the schema. It mirrors the types in `../topology.ts`: where the two differ the compiler refuses. */
import * as v from 'valibot';
import { DEFAULT_TLS_PORT, DEFAULT_WEB_PORT } from '../defaults.ts';
import type { Topology } from '../topology.ts';
import { cache } from './cache.ts';
import { database } from './database.ts';
import { queue } from './queue.ts';
import { balancer, web, workers } from './servers.ts';
import { object, text, whole } from './values.ts';

const NAME_RULE = 'lower-case letters, digits and dashes, starting with a letter, 40 at most';

export const topologySchema = v.pipe(
  object({
    name: v.optional(v.pipe(text, v.regex(/^[a-z][a-z0-9-]{0,39}$/, NAME_RULE))),
    web: v.optional(web),
    balancer: v.optional(balancer),
    workers: v.optional(workers),
    database: v.optional(database),
    cache: v.optional(cache),
    queue: v.optional(queue),
    logs: v.optional(
      object({
        maxFileMb: v.optional(whole(1, 10_000)),
        keepFiles: v.optional(whole(1, 1_000)),
      }),
    ),
  }),
  v.forward(
    v.partialCheck(
      [
        ['web', 'port'],
        ['database', 'port'],
      ],
      ({ web, database }) => !database?.port || database.port !== (web?.port ?? DEFAULT_WEB_PORT),
      'another port than that of the web server',
    ),
    ['database', 'port'],
  ),
  v.forward(
    v.partialCheck(
      [
        ['web', 'port'],
        ['balancer', 'tls'],
      ],
      ({ web, balancer }) =>
        !balancer?.tls ||
        (balancer.tls.port ?? DEFAULT_TLS_PORT) !== (web?.port ?? DEFAULT_WEB_PORT),
      'a `port` of its own: this one is that for plain HTTP, `web.port`',
    ),
    ['balancer', 'tls'],
  ),
);

type Mirrors<A, B> = [A] extends [B] ? ([B] extends [A] ? true : never) : never;
const schemaMirrorsTypes: Mirrors<v.InferOutput<typeof topologySchema>, Topology> = true;
void schemaMirrorsTypes;
