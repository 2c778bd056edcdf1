/** `banyan sql`: a prompt, one statement, or a script from standard input; over shards, to all of them as one. */
import pc from 'picocolors';
import { BanyanError } from '../errors.ts';
import { reachDatabase } from '../operate/connect.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { loadTopology } from '../operate/load-topology.ts';
import type { CompleteTopology } from '../topology/complete.ts';
import { type CommonOptions, printJson } from './output.ts';
import { ServerConnection, type SqlConnection } from './sql/connection.ts';
import { SqlPrompt } from './sql/prompt.ts';
import { SqlSession } from './sql/session.ts';
import { isBlank, splitScript } from './sql/split.ts';

export interface SqlOptions extends CommonOptions {
  superuser?: boolean;
  /** One shard of several, by its id. */
  shard?: string;
}

export class NoSuperuser extends BanyanError {
  constructor() {
    super('NO_SUPERUSER', {
      what: 'Banyan does not run this database and knows no superuser of it',
      where: 'database.url',
      remedy: 'Leave out --superuser, or connect with the tools of whoever runs it',
    });
  }
}

/** What a superuser leaves half done the application may not end, so it keeps to one server. */
export class SuperuserNeedsShard extends BanyanError {
  constructor(shards: number) {
    super('SUPERUSER_NEEDS_SHARD', {
      what: `The database is in ${shards} shards, and each has a superuser of its own`,
      where: '--superuser',
      remedy: 'Say which one: `banyan sql --superuser --shard 1`',
    });
  }
}

/** @throws NotRunning, NoSuperuser, NoSuchShard, SuperuserNeedsShard, StatementFailed */
export async function sql(statement: string | undefined, options: SqlOptions): Promise<void> {
  const paths = new DeploymentPaths(options.dir);
  const { topology } = await loadTopology(paths.app);
  const session = new SqlSession(await connectionOf(paths, topology, options));
  try {
    await session.connect();
    const script = statement ?? (process.stdin.isTTY ? undefined : await readAll(process.stdin));
    if (script === undefined) return await new SqlPrompt(session, paths.root).run();
    await runScript(session, script, options.json ?? false);
  } finally {
    await session.end();
  }
}

/** Over several shards to all of them, unless one is named. */
async function connectionOf(
  paths: DeploymentPaths,
  topology: CompleteTopology,
  { shard, superuser }: SqlOptions,
): Promise<SqlConnection> {
  const { url, superuserUrl, shards } = await reachDatabase(paths, topology, shard);
  if (superuser && !superuserUrl) throw new NoSuperuser();
  if (shards === 1) return new ServerConnection((superuser && superuserUrl) || url);
  if (shard !== undefined) {
    return new ServerConnection((superuser && superuserUrl) || url, shard);
  }
  if (superuser) throw new SuperuserNeedsShard(shards);
  // With its parser of SQL it is only for those who need it.
  const { ShardedConnection } = await import('./sql/sharded-connection.ts');
  return new ShardedConnection(url, paths.map);
}

/** Statement by statement; the first that fails ends it, since the next may rest on it. */
async function runScript(session: SqlSession, script: string, json: boolean): Promise<void> {
  process.once('SIGINT', () => void session.cancel().catch(() => {}));
  const { statements, rest } = splitScript(script);
  if (!isBlank(rest)) statements.push(rest.trim());
  for (const statement of statements) {
    if (json) printJson(await session.rows(statement));
    else {
      for (const result of await session.run(statement)) {
        const text = session.render(result);
        process.stdout.write(`${result.columns.length > 0 ? text : pc.dim(text)}\n`);
      }
    }
  }
}

async function readAll(stream: NodeJS.ReadStream): Promise<string> {
  let text = '';
  for await (const chunk of stream.setEncoding('utf8')) text += chunk;
  return text;
}
