/**
 * The whole of a database in shards, as one connection: the application's own sharded pool.
 *
 * Holds true here:
 * - One client has the session, and goes to the shards' primaries alone, as it does on one server: a replica may be
 *   behind, and who types here has no earlier answer by which it would be known how far.
 * - The place of an error is that in the text that was typed, or none: the shards get texts written anew.
 */
import { randomBytes } from 'node:crypto';
import { setFlagsFromString } from 'node:v8';
import pg from 'pg';
import { isBroken } from '../../app/database/breakage.ts';
import { atMember } from '../../app/database/place.ts';
import { createPool, type Pool } from '../../app/database/pool.ts';
import { LEADING } from '../../app/database/shards/session-words.ts';
import { log } from '../../app/telemetry/log.ts';
import { hasCode } from '../../errors.ts';
import { readRuntimeMap } from '../../map/map-file.ts';
import { HELPER_TIMEOUT_MS, type OnShard, type SqlConnection, showEvents } from './connection.ts';

/** One for the session, and some for what goes on beside it. */
const CONNECTIONS = 3;
const EXPLAIN = 'explain ';
const EXPLAIN_WORDS = /^explain\s*(?:\([^()]*\)\s*|(?:analy[sz]e|verbose)\b\s*)*/i;
/** What EXPLAIN takes, and shards may get in another text. */
const REWRITTEN = /^(?:\(|(?:select|with|insert|update|delete|merge|values|table)\b)/i;

type SessionClient = pg.PoolClient & { getTransactionStatus(): string | null };

export class ShardedConnection implements SqlConnection {
  readonly label: string;
  readonly greeting: string;
  readonly #url: string;
  readonly #mapFile: string;
  /** By which the servers tell its processes from all others. */
  readonly #name = `banyan sql ${randomBytes(4).toString('hex')}`;
  #pool: Pool | undefined;
  #client: SessionClient | undefined;
  #broken: Error | undefined;

  /** @param url the owner's, at any member */
  constructor(url: string, mapFile: string) {
    this.#url = url;
    this.#mapFile = mapFile;
    const { name, shards } = readRuntimeMap(mapFile).database;
    this.label = name;
    this.greeting = `${name}, ${shards.length} shards`;
  }

  get transaction(): string {
    return this.#client?.getTransactionStatus() ?? 'I';
  }

  get broken(): Error | undefined {
    return this.#broken;
  }

  async connect(): Promise<void> {
    // Results go to standard output, where the application's log would be.
    log.level = 'silent';
    // Nobody types so much that the parser of SQL, which is WebAssembly, had to be compiled for speed: that takes two
    // seconds of a processor, and the process waits for it when it ends.
    for (const flag of ['--no-wasm-tier-up', '--no-wasm-dynamic-tiering']) setFlagsFromString(flag);
    this.#pool = createPool({
      connectionString: this.#url,
      mapFile: this.#mapFile,
      application_name: this.#name,
      max: CONNECTIONS,
    });
    this.#client = (await this.#pool.connect()) as SessionClient;
    showEvents(this.#client);
    this.#client.on('error', error => {
      this.#broken = error;
    });
    // A session that has set something keeps its connections, which are to primaries.
    await this.#client.query(`set application_name = '${this.#name}'`);
  }

  async query(config: pg.QueryConfig): Promise<pg.QueryResult | pg.QueryResult[]> {
    try {
      return await this.#client!.query(config);
    } catch (error) {
      if (isBroken(error)) this.#broken = error as Error;
      if (error instanceof pg.DatabaseError) {
        const { shard } = error as { shard?: number };
        const { shards } = readRuntimeMap(this.#mapFile).database;
        (error as OnShard).onShard = shard === undefined ? undefined : shards[shard]?.id;
        if (error.position) error.position = await this.#positionOf(config.text, error);
      }
      throw error;
    }
  }

  /** On every server: several may be at it. */
  async cancel(): Promise<void> {
    const { shards } = readRuntimeMap(this.#mapFile).database;
    await Promise.allSettled(
      shards
        .flatMap(({ members }) => members)
        .map(member =>
          withHelper(atMember(this.#url, member), helper =>
            helper.query(
              `select pg_cancel_backend(pid) from pg_stat_activity
               where application_name = $1 and state = 'active' and pid <> pg_backend_pid()`,
              [this.#name],
            ),
          ),
        ),
    );
  }

  async end(): Promise<void> {
    this.#client?.release(this.#broken);
    await this.#pool?.end();
  }

  /**
   * Lets the first shard say, by EXPLAIN, what it thinks of the text that was typed: it sees what is wrong with it
   * before anything runs.
   * @returns undefined when it sees nothing, or something else
   */
  async #positionOf(text: string, error: pg.DatabaseError): Promise<string | undefined> {
    const leading = LEADING.exec(text)?.[0].length ?? 0;
    const words = EXPLAIN_WORDS.exec(text.slice(leading))?.[0].length ?? 0;
    const before = leading + words;
    const statement = text.slice(before);
    if (!REWRITTEN.test(statement)) return error.position;
    let found: string | undefined;
    await withHelper(this.#url, helper => helper.query(`${EXPLAIN}${statement}`)).catch(said => {
      const position = Number((said as pg.DatabaseError).position);
      if (!hasCode(said, String(error.code)) || !position) return;
      found = String(position - EXPLAIN.length + before);
    });
    return found;
  }
}

async function withHelper<T>(url: string, run: (helper: pg.Client) => Promise<T>): Promise<T> {
  const helper = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: HELPER_TIMEOUT_MS,
    query_timeout: HELPER_TIMEOUT_MS,
  });
  helper.on('error', () => {});
  try {
    await helper.connect();
    return await run(helper);
  } finally {
    await helper.end().catch(() => {});
  }
}
