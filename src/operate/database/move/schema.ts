/**
 * Copies a database's schema from one server to another with PostgreSQL's own tools, in two parts: what rows need
 * to be copied and followed (tables, keys), and what is better made when they are there (other
 * indexes, foreign keys, triggers).
 */
import { execFile, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import type { SystemPostgres } from '../../../engines/system-postgres.ts';
import { BanyanError } from '../../../errors.ts';
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

/** Entries of a dump's table of contents that wait until the rows are there. */
const LATER = /^\d+; \d+ \d+ (INDEX|INDEX ATTACH|FK CONSTRAINT|TRIGGER|EVENT TRIGGER|STATISTICS) /;

/** pg_dump before 17 takes a missing target for 0, which would switch statistics off. */
const EMPTY_STATISTICS = /^ALTER TABLE ONLY .+ ALTER COLUMN .+ SET STATISTICS 0;$/gm;
const STATISTICS_MAY_BE_MISSING = 17;

export class SchemaCopy {
  readonly #tools: SystemPostgres;
  readonly #source: MoveEnd;
  readonly #target: MoveEnd;
  #folder = '';

  constructor(tools: SystemPostgres, source: MoveEnd, target: MoveEnd) {
    this.#tools = tools;
    this.#source = source;
    this.#target = target;
  }

  /** Reads the source's schema. @throws SchemaNotCopied */
  async read(): Promise<void> {
    this.#folder = await mkdtemp(path.join(tmpdir(), 'banyan-schema-'));
    const relay =
      this.#source.major > this.#tools.major
        ? await olderFace(this.#source, `${this.#tools.major}.0`)
        : undefined;
    try {
      const at = relay ?? this.#source;
      await this.#run('pg_dump', this.#source, [
        '--schema-only',
        '--format=custom',
        '--no-publications',
        '--no-subscriptions',
        `--file=${this.#dump}`,
        `--host=${at.host}`,
        `--port=${at.port}`,
        `--username=${this.#source.user}`,
        this.#source.database,
      ]);
    } finally {
      relay?.close();
    }
  }

  /** Makes what rows need. @throws SchemaNotCopied */
  makeTables(): Promise<void> {
    return this.#restore(line => !LATER.test(line));
  }

  /** Makes the rest. @throws SchemaNotCopied */
  makeIndexes(): Promise<void> {
    return this.#restore(line => LATER.test(line));
  }

  async close(): Promise<void> {
    if (this.#folder) await rm(this.#folder, { recursive: true, force: true });
  }

  get #dump(): string {
    return path.join(this.#folder, 'schema.dump');
  }

  async #restore(keep: (line: string) => boolean): Promise<void> {
    const contents = await this.#run('pg_restore', undefined, ['--list', this.#dump]);
    const list = path.join(this.#folder, 'list');
    const kept = contents.split('\n').filter(line => /^\d/.test(line) && keep(line));
    if (kept.length === 0) return;
    await writeFile(list, `${kept.join('\n')}\n`);
    const script = path.join(this.#folder, 'schema.sql');
    await this.#run('pg_restore', undefined, [
      `--use-list=${list}`,
      `--file=${script}`,
      this.#dump,
    ]);
    let text = await readFile(script, 'utf8');
    if (this.#source.major >= STATISTICS_MAY_BE_MISSING) text = text.replace(EMPTY_STATISTICS, '');
    await this.#execute(text);
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

  async #run(program: string, end: MoveEnd | undefined, args: string[]): Promise<string> {
    try {
      const { stdout } = await promisify(execFile)(path.join(this.#tools.bin, program), args, {
        env: toolEnv(end),
        cwd: '/',
        maxBuffer: 256 * 1024 * 1024,
      });
      return stdout;
    } catch (error) {
      throw new SchemaNotCopied(
        program,
        (error as { stderr?: string }).stderr || (error as Error).message,
      );
    }
  }
}

function toolEnv(end: MoveEnd | undefined): NodeJS.ProcessEnv {
  return {
    PATH: process.env.PATH,
    LC_ALL: 'C.UTF-8',
    PGSSLMODE: 'disable',
    ...(end ? { PGPASSWORD: end.password } : {}),
  };
}
