/** How many connections to the database each web server and worker may hold. Pure. */
import { BanyanError } from '../errors.ts';

/** Superuser, replication, operations and a prompt need connections when the servers hold all theirs. */
const RESERVED_CONNECTIONS = 10;
/** Of each worker beside its pool: the queue's ear and hand (app/queue/README.md), and one for schedules. */
const QUEUE_CONNECTIONS = 3;
/** A server with fewer could hardly serve two requests at a time. */
const FEWEST_CONNECTIONS = 2;
/** More connections than this gain a server nothing: PostgreSQL works on about two for each processor. */
const MOST_CONNECTIONS = 20;

export class TooManyServers extends BanyanError {
  constructor(servers: number, maxConnections: number, wanted: number, kept: number) {
    const meanwhile =
      servers === wanted
        ? ''
        : ` (${wanted}, and ${servers - wanted} more while they are replaced)`;
    super('TOO_MANY_SERVERS', {
      what: `${servers} web servers and workers${meanwhile} need at least ${servers * FEWEST_CONNECTIONS + kept} connections to the database, and it allows ${maxConnections}`,
      where: 'web.servers, workers.servers',
      remedy:
        'Nothing was changed. Use fewer servers, or raise `database.maxConnections` (it needs a restart of the database)',
    });
  }
}

/**
 * Connections to the database that the pool of each web server and worker may hold, so that all of them together, with those
 * that the queue holds in workers, never take the last one.
 * @param servers the most that run at a time, of both
 * @param workers how many of them are workers
 * @param wanted how many there are to be in the end, for the error
 * @throws TooManyServers
 */
export function connectionsPerServer(
  servers: number,
  maxConnections: number,
  { workers = 0, wanted = servers }: { workers?: number; wanted?: number } = {},
): number {
  const kept = RESERVED_CONNECTIONS + workers * QUEUE_CONNECTIONS;
  const share = Math.floor((maxConnections - kept) / servers);
  if (share < FEWEST_CONNECTIONS) throw new TooManyServers(servers, maxConnections, wanted, kept);
  return Math.min(MOST_CONNECTIONS, share);
}
