/**
 * Finds the primary among a cluster's members, and opens connections to it.
 *
 * Holds true here: the primary is who says so itself; of several who do, the one with the higher timeline. A server
 * that is frozen keeps nobody: every connection attempt and question has a limit.
 */
import pg from 'pg';
import { CURRENT_TIMELINE } from '../database/timelines.ts';

export interface Address {
  readonly host: string;
  readonly port: number;
}

export interface Primary {
  readonly address: Address;
  /** For questions; its errors are heard by nobody else than who asks. */
  readonly client: pg.Client;
}

/** A server that works answers within milliseconds. */
const TIMEOUT_MS = 3_000;

const TIMELINE = `select pg_is_in_recovery() as standby, case when not pg_is_in_recovery()
  then ${CURRENT_TIMELINE} end as timeline`;

/** No member says that it is the primary. */
export class NoPrimary extends Error {}

/**
 * @param config of a role; host and port are the members'
 * @throws NoPrimary with the last failure as its cause
 */
export async function findPrimary(
  members: readonly Address[],
  config: pg.ClientConfig,
): Promise<Primary> {
  let failure: unknown;
  const answers = await Promise.all(
    members.map(async address => {
      try {
        const client = await connect(address, config);
        try {
          const { rows } = await withLimit(
            client.query<{ standby: boolean; timeline: number | null }>(TIMELINE),
            client,
          );
          if (!rows[0]!.standby) return { address, client, timeline: rows[0]!.timeline ?? 0 };
        } catch (error) {
          failure = error;
        }
        abandon(client);
      } catch (error) {
        failure = error;
      }
      return undefined;
    }),
  );
  const primaries = answers
    .filter(answer => answer !== undefined)
    .sort((one, other) => other.timeline - one.timeline);
  for (const { client } of primaries.slice(1)) abandon(client);
  if (!primaries[0]) throw new NoPrimary('no member is the primary', { cause: failure });
  return primaries[0];
}

/** A connection that its owner has to `abandon`. */
export async function connect(
  { host, port }: Address,
  config: pg.ClientConfig,
): Promise<pg.Client> {
  const client = new pg.Client({ ...config, host, port });
  client.on('error', () => {});
  try {
    await withLimit(client.connect(), client);
  } catch (error) {
    abandon(client);
    throw error;
  }
  return client;
}

const turns = new WeakMap<pg.Client, Promise<unknown>>();

/** For several who share a connection: one question after the other. */
export function askInTurn<R extends pg.QueryResultRow>(
  client: pg.Client,
  text: string,
  values?: unknown[],
): Promise<pg.QueryResult<R>> {
  const before = turns.get(client) ?? Promise.resolve();
  const answer = before.then(() => client.query<R>(text, values));
  turns.set(
    client,
    answer.catch(() => {}),
  );
  return answer;
}

/** Ends a connection now, whatever runs on it. */
export function abandon(client: pg.Client): void {
  const { stream } = (client as pg.Client & { connection: pg.Connection }).connection;
  // In good order first: a socket that is cut shows up in the server's log.
  client.end().catch(() => {});
  setTimeout(() => stream.destroy(), 200).unref();
}

/** pg's own limits do not hold while a frozen server's kernel takes the connection. */
async function withLimit<T>(promise: Promise<T>, client: pg.Client): Promise<T> {
  const { stream } = (client as pg.Client & { connection: pg.Connection }).connection;
  const limit = setTimeout(
    () => stream.destroy(new Error('the server does not answer')),
    TIMEOUT_MS,
  );
  try {
    return await promise;
  } finally {
    clearTimeout(limit);
  }
}
