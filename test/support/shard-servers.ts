/**
 * Databases as shards, for tests:
 *
 *     const shards = await ShardServers.start(3);             // databases of one server
 *     const shards = await ShardServers.start(3, { servers: 3 });   // each with a server of its own, to be killed
 */
import pg from 'pg';
import { Branch, type ShardPrimary } from '../../src/app/database/shards/two-phase/branch.ts';
import { decisionTable } from '../../src/app/database/shards/two-phase/decisions.ts';
import { TestPostgres } from './postgres.ts';

export class ShardServers {
  readonly servers: TestPostgres[];
  /** Of the databases, by shard. */
  readonly urls: string[];
  readonly pools: pg.Pool[];
  readonly primaries: ShardPrimary[];

  private constructor(servers: TestPostgres[], urls: string[], pools: pg.Pool[]) {
    this.servers = servers;
    this.urls = urls;
    this.pools = pools;
    this.primaries = urls.map((url, index) => ({
      id: `s${index}`,
      open: async () => {
        const client = new pg.Client({
          connectionString: url,
          connectionTimeoutMillis: 2_000,
          query_timeout: 5_000,
        });
        client.on('error', () => {});
        await client.connect();
        return client;
      },
    }));
  }

  static async start(count: number, options: { servers?: number } = {}): Promise<ShardServers> {
    const servers: TestPostgres[] = [];
    const urls: string[] = [];
    const pools: pg.Pool[] = [];
    try {
      for (let i = 0; i < (options.servers ?? 1); i++) servers.push(await TestPostgres.start());
      for (let i = 0; i < count; i++) {
        const server = servers[i % servers.length]!;
        urls.push(await server.database());
        const pool = await server.pool({ connectionString: urls[i], max: 20 });
        pool.on('connect', client => client.on('error', () => {}));
        pools.push(pool);
        await pool.query(decisionTable());
      }
      return new ShardServers(servers, urls, pools);
    } catch (error) {
      await Promise.all(servers.map(server => server.remove()));
      throw error;
    }
  }

  /** The same statement on all. */
  async everywhere(text: string, values?: unknown[]): Promise<pg.QueryResult[]> {
    return Promise.all(this.pools.map(pool => pool.query(text, values)));
  }

  /** An open transaction on one shard. */
  async begin(shard: number, modes = ''): Promise<Branch> {
    const client = await this.pools[shard]!.connect();
    await client.query(`begin ${modes}`);
    return new Branch(this.primaries[shard]!, client, error => client.release(error));
  }

  /** The names of all prepared transactions, by shard. */
  async prepared(): Promise<string[][]> {
    const results = await this.everywhere(
      'select gid from pg_prepared_xacts where database = current_database() order by gid',
    );
    return results.map(({ rows }) => rows.map(({ gid }) => gid));
  }

  async remove(): Promise<void> {
    await Promise.all(this.servers.map(server => server.remove()));
  }
}
