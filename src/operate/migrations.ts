/**
 * Brings the schema up to date before a web server starts: the folder of SQL files, or the user's
 * own command.
 */
import { spawn } from 'node:child_process';
import path from 'node:path';
import pg from 'pg';
import { migrateAll, waitForLock } from '../app/database/migrate.ts';
import { commandPath } from '../engines/web-server.ts';
import { BanyanError } from '../errors.ts';
import { MAP_VARIABLE } from '../map/map-file.ts';
import type { CompleteTopology } from '../topology/complete.ts';

/** Held while the user's command runs. The number is arbitrary and ours alone. */
const COMMAND_LOCK = 7_233_402_118_531n;

/** The last lines of a command that failed. */
const LAST_WORDS = 20;

export class MigrationCommandFailed extends BanyanError {
  constructor(command: string, reason: string, output: string[]) {
    const quoted = output.map(line => `\n  │ ${line}`).join('');
    super('MIGRATION_COMMAND_FAILED', {
      what: `The migration command ${reason}${quoted ? `. Its last words:${quoted}\n` : ''}`,
      where: command,
      remedy: 'Correct what it says and run the command again. The web server was not started',
    });
  }
}

/**
 * On all shards. A folder's files are kept on all or on none; a command of the user's runs once for each shard, one after
 * the other, and knows by itself what it has done where.
 * @param urls the owner's, to each shard
 * @param onLine gets each line that the user's command prints
 * @returns what was done, for people; undefined when the topology names no migrations
 * @throws MigrationsFolderMissing, MigrationMissing, MigrationChanged, MigrationOutOfOrder,
 *   MigrationFailed, MigrationCommandFailed
 */
export async function runMigrations(
  folder: string,
  { migrations, migrate: command }: CompleteTopology['database'],
  urls: string[],
  env: NodeJS.ProcessEnv,
  onLine: (line: string) => void,
): Promise<string | undefined> {
  const where = urls.length > 1 ? ` on ${urls.length} shards` : '';
  if (command) {
    await withLock(urls[0]!, async () => {
      for (const [shard, url] of urls.entries()) {
        const { reason, output } = await runUserCommand(
          folder,
          command,
          urls.length > 1 ? envOfShard(env, url) : env,
          onLine,
        );
        if (!reason) continue;
        const place = urls.length > 1 ? ` on shard ${shard + 1} of ${urls.length}` : '';
        throw new MigrationCommandFailed(command, `${reason}${place}`, output);
      }
    });
    return `\`${command}\` done${where}`;
  }
  if (!migrations) return undefined;
  const pools = urls.map(url => new pg.Pool({ connectionString: url, max: 1 }));
  for (const pool of pools) pool.on('error', () => {});
  try {
    const { applied, already } = await migrateAll(pools, path.resolve(folder, migrations));
    if (applied.length === 0) return `up to date, ${already} applied earlier`;
    return `${applied.length} applied${where}: ${applied.join(', ')}`;
  } finally {
    await Promise.all(pools.map(pool => pool.end()));
  }
}

/** With the map it would reach all shards through each. */
function envOfShard(env: NodeJS.ProcessEnv, url: string): NodeJS.ProcessEnv {
  const { [MAP_VARIABLE]: _map, ...rest } = env;
  return { ...rest, DATABASE_URL: url };
}

/** However many deploys run together, one runs the command at a time. */
async function withLock(url: string, body: () => Promise<void>): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  try {
    await waitForLock(client, COMMAND_LOCK);
    await body();
  } finally {
    // The end of the session gives the lock back.
    await client.end();
  }
}

/**
 * Runs a command of the user's in a folder, as an npm script is run.
 * @param onLine gets each line that it prints
 * @returns why it failed, if it did, and its last lines
 */
export async function runUserCommand(
  folder: string,
  command: string,
  env: NodeJS.ProcessEnv,
  onLine: (line: string) => void,
): Promise<{ reason: string | undefined; output: string[] }> {
  const child = spawn('/bin/sh', ['-c', command], {
    cwd: folder,
    env: { ...env, PATH: commandPath(folder, env.PATH) },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output: string[] = [];
  const take = (chunk: Buffer) => {
    for (const line of chunk.toString().split('\n').filter(Boolean)) {
      output.push(line);
      if (output.length > LAST_WORDS) output.shift();
      onLine(line);
    }
  };
  child.stdout.on('data', take);
  child.stderr.on('data', take);
  const { promise, resolve, reject } = Promise.withResolvers<string | undefined>();
  child.once('error', reject);
  child.once('close', (code, signal) => {
    if (code === 0) resolve(undefined);
    else resolve(signal ? `was ended by ${signal}` : `ended with exit code ${code}`);
  });
  return { reason: await promise, output };
}
