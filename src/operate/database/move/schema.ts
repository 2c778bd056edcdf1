/**
 * Copies a database's schema from one server to another with PostgreSQL's own tools, in two parts: what rows need
 * to be copied and followed (tables, keys), and what is better made when they are there (other
 * indexes, foreign keys, triggers).
 */
import { execFile, spawn } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import type { SystemPostgres } from '../../../engines/system-postgres.ts';
import { BanyanError } from '../../../errors.ts';
import type { ServerAddress } from '../running.ts';
import { olderFace } from './older-face.ts';

/** A database on a server, with a superuser's credentials. */
export interface MoveEnd {
  host: string;
  port: number;
  user: string;
  password: string;
  database: string;
  /** Of the server. */
  major: number;
}

export class SchemaNotCopied extends BanyanError {
  constructor(program: string, output: string) {
    super('SCHEMA_NOT_COPIED', {
      what: `The schema could not be copied: ${program} says: ${output.trim()}`,
      where: program,
      remedy:
        'Nothing was switched; the database that serves goes on. Change what it names, and try again',
    });
  }
}

/**
 * How an entry begins in the dump's part with keys, indexes and triggers. (Its other part has function bodies, which
 * may hold anything; this one has not.)
 */
const ENTRY = /^--\n-- Name: .*; Type: (.+?); Schema: .*$/m;
/** Primary keys, and what else is a constraint of one table: rows are followed by them. */
const KEYS = ['CONSTRAINT'];

/** pg_dump before 17 takes a missing target for 0, which would switch statistics off. */
const EMPTY_STATISTICS = /^ALTER TABLE ONLY .+ ALTER COLUMN .+ SET STATISTICS 0;$/gm;
const STATISTICS_MAY_BE_MISSING = 17;

export class SchemaCopy {
  readonly #tools: SystemPostgres;
  readonly #source: MoveEnd;
  readonly #target: MoveEnd;
  #tables = '';
  #keys = '';
  #indexes = '';

  constructor(tools: SystemPostgres, source: MoveEnd, target: MoveEnd) {
    this.#tools = tools;
    this.#source = source;
    this.#target = target;
  }

  /** Reads the source's schema. @throws SchemaNotCopied */
  async read(): Promise<void> {
    const relay =
      this.#source.major > this.#tools.major
        ? await olderFace(this.#source, `${this.#tools.major}.0`)
        : undefined;
    try {
      const at = relay ?? this.#source;
      this.#tables = await this.#dump(at, 'pre-data');
      const rest = await this.#dump(at, 'post-data');
      const [preamble = '', ...entries] = rest.split(new RegExp(`(?=${ENTRY.source})`, 'm'));
      const isKey = (entry: string) => KEYS.includes(ENTRY.exec(entry)?.[1] ?? '');
      // A split at a look-ahead with a group gives the group too; entries begin with their comment.
      const whole = entries.filter(entry => entry.startsWith('--'));
      this.#keys = [preamble, ...whole.filter(isKey)].join('');
      this.#indexes = [preamble, ...whole.filter(entry => !isKey(entry))].join('');
    } finally {
      relay?.close();
    }
  }

  /** Makes what rows need. @throws SchemaNotCopied */
  async makeTables(): Promise<void> {
    await this.#execute(this.#tables);
    await this.#execute(this.#keys);
  }

  /** Makes the rest. @throws SchemaNotCopied */
  makeIndexes(): Promise<void> {
    return this.#execute(this.#indexes);
  }

  async #dump({ host, port }: ServerAddress, section: string): Promise<string> {
    const { user, database } = this.#source;
    try {
      const { stdout } = await promisify(execFile)(
        path.join(this.#tools.bin, 'pg_dump'),
        [
          '--schema-only',
          `--section=${section}`,
          '--no-publications',
          '--no-subscriptions',
          `--host=${host}`,
          `--port=${port}`,
          `--username=${user}`,
          database,
        ],
        { env: toolEnv(this.#source), cwd: '/', maxBuffer: 256 * 1024 * 1024 },
      );
      // Only psql's own, for dumps of unknown origin; each part is run on its own.
      const text = stdout.replace(/^\\(un)?restrict .*$/gm, '');
      return this.#source.major >= STATISTICS_MAY_BE_MISSING
        ? text.replace(EMPTY_STATISTICS, '')
        : text;
    } catch (error) {
      throw new SchemaNotCopied(
        'pg_dump',
        (error as { stderr?: string }).stderr || (error as Error).message,
      );
    }
  }

  async #execute(text: string): Promise<void> {
    const { host, port, user, database } = this.#target;
    const child = spawn(
      path.join(this.#tools.bin, 'psql'),
      [
        '--no-psqlrc',
        '--quiet',
        '--single-transaction',
        '--set=ON_ERROR_STOP=1',
        '--output=/dev/null',
        `--host=${host}`,
        `--port=${port}`,
        `--username=${user}`,
        database,
      ],
      { env: toolEnv(this.#target), stdio: ['pipe', 'ignore', 'pipe'], cwd: '/' },
    );
    let complaints = '';
    child.stderr.setEncoding('utf8').on('data', chunk => {
      complaints += chunk;
    });
    child.stdin.on('error', () => {});
    child.stdin.end(text);
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', resolve);
    });
    if (code !== 0) throw new SchemaNotCopied('psql', complaints);
  }
}

function toolEnv({ password }: MoveEnd): NodeJS.ProcessEnv {
  return {
    PATH: process.env.PATH,
    LC_ALL: 'C.UTF-8',
    PGSSLMODE: 'disable',
    PGPASSWORD: password,
  };
}
