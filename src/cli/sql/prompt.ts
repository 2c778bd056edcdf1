/** The interactive prompt of `banyan sql`. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import pc from 'picocolors';
import { describeError, duration } from '../output.ts';
import { describeCommand, HELP } from './describe.ts';
import type { SqlSession } from './session.ts';
import { isBlank, splitScript } from './split.ts';

const HISTORY_LINES = 1_000;

export class SqlPrompt {
  readonly #session: SqlSession;
  readonly #historyFile: string;
  #buffer = '';
  #timing = false;
  #running = false;
  #closed = false;

  /** @param folder where the history is kept: it may hold what was typed, so it is closed to others */
  constructor(session: SqlSession, folder: string) {
    this.#session = session;
    this.#historyFile = path.join(folder, 'sql-history');
  }

  /** Resolves when the user leaves. */
  async run(): Promise<void> {
    const terminal = createInterface({
      input: process.stdin,
      output: process.stdout,
      history: this.#readHistory(),
      historySize: HISTORY_LINES,
      removeHistoryDuplicates: true,
    });
    terminal.on('history', history => this.#writeHistory(history));
    terminal.on('SIGINT', () => {
      if (this.#running) void this.#session.cancel().catch(() => {});
      else {
        this.#buffer = '';
        process.stdout.write('^C\n');
        this.#ask(terminal);
      }
    });
    terminal.on('close', () => {
      this.#closed = true;
    });
    console.log(pc.dim(`Connected to ${this.#session.greeting}. \\? for help, \\q to leave.`));
    this.#ask(terminal);
    for await (const line of terminal) {
      this.#running = true;
      const goOn = await this.#take(line);
      this.#running = false;
      if (!goOn) break;
      if (this.#session.broken) {
        console.error(pc.red(`The connection was lost: ${this.#session.broken.message}`));
        process.exitCode = 1;
        break;
      }
      this.#ask(terminal);
    }
    terminal.close();
  }

  #ask(terminal: Interface): void {
    if (this.#closed) return;
    const state = { T: '*', E: '!' }[this.#session.transaction] ?? '';
    const mark = isBlank(this.#buffer) ? '=' : '-';
    terminal.setPrompt(`${this.#session.label}${mark}${state}> `);
    terminal.prompt();
  }

  /** @returns false to leave */
  async #take(line: string): Promise<boolean> {
    if (isBlank(this.#buffer)) {
      if (/^\s*\\/.test(line)) return this.#command(line.trim());
      if (/^\s*(exit|quit)\s*;?\s*$/i.test(line)) return false;
      this.#buffer = '';
    }
    this.#buffer += `${line}\n`;
    const { statements, rest } = splitScript(this.#buffer);
    this.#buffer = rest;
    for (const statement of statements) {
      if (!(await this.#execute(statement))) break;
    }
    return true;
  }

  async #command(line: string): Promise<boolean> {
    if (/^\\q/.test(line)) return false;
    if (line === '\\?' || line === '\\h') console.log(HELP);
    else if (line === '\\x') {
      this.#session.expanded = !this.#session.expanded;
      console.log(`One value a line is ${this.#session.expanded ? 'on' : 'off'}.`);
    } else if (line === '\\timing') {
      this.#timing = !this.#timing;
      console.log(`Timing is ${this.#timing ? 'on' : 'off'}.`);
    } else {
      const queries = describeCommand(line);
      if (!queries) console.error(`${line.split(' ', 1)[0]} is not known here; \\? shows what is`);
      for (const { title, sql, parameters } of queries ?? []) {
        console.log(pc.bold(title));
        if (!(await this.#execute(sql, parameters))) break;
      }
    }
    return true;
  }

  async #execute(statement: string, parameters?: string[]): Promise<boolean> {
    const begun = performance.now();
    try {
      for (const result of await this.#session.run(statement, parameters)) {
        console.log(this.#session.render(result));
      }
      if (this.#timing) console.log(pc.dim(`Time: ${duration(performance.now() - begun)}`));
      return true;
    } catch (error) {
      console.error(describeError(error));
      return false;
    }
  }

  #readHistory(): string[] {
    try {
      return readFileSync(this.#historyFile, 'utf8').split('\n').filter(Boolean);
    } catch {
      return [];
    }
  }

  #writeHistory(history: string[]): void {
    // A password that is set here should not lie about in a file.
    const lines = history.filter(line => !/password/i.test(line)).slice(0, HISTORY_LINES);
    try {
      writeFileSync(this.#historyFile, lines.join('\n'), { mode: 0o600 });
    } catch {
      // A history that cannot be kept is no reason to disturb.
    }
  }
}
