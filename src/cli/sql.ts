/** `banyan sql`: a prompt, one statement, or a script from standard input. */
import pc from 'picocolors';
import { BanyanError } from '../errors.ts';
import { reachDatabase } from '../operate/connect.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { loadTopology } from '../operate/load-topology.ts';
import { type CommonOptions, printJson } from './output.ts';
import { SqlPrompt } from './sql/prompt.ts';
import { SqlSession } from './sql/session.ts';
import { isBlank, splitScript } from './sql/split.ts';

export interface SqlOptions extends CommonOptions {
  superuser?: boolean;
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

/** @throws NotRunning, NoSuperuser, StatementFailed */
export async function sql(statement: string | undefined, options: SqlOptions): Promise<void> {
  const paths = new DeploymentPaths(options.dir);
  const { topology } = await loadTopology(paths.app);
  const { url, superuserUrl } = await reachDatabase(paths, topology);
  if (options.superuser && !superuserUrl) throw new NoSuperuser();
  const session = new SqlSession((options.superuser && superuserUrl) || url);
  await session.connect();
  try {
    const script = statement ?? (process.stdin.isTTY ? undefined : await readAll(process.stdin));
    if (script === undefined) return await new SqlPrompt(session, paths.root).run();
    await runScript(session, script, options.json ?? false);
  } finally {
    await session.end();
  }
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
