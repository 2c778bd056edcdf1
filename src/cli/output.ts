/**
 * What all commands share in how they speak: errors, JSON, colours.
 *
 * Results go to standard output, everything else to standard error, so that a pipe gets the result
 * alone. With `--json` an error is JSON too.
 */
import pc from 'picocolors';
import { BanyanError, explainSystemError } from '../errors.ts';

export interface CommonOptions {
  /** The application's folder. */
  dir: string;
  json?: boolean;
}

/** Exit codes, the same in every command. */
export const EXIT = { ok: 0, failed: 1, notRunning: 3, interrupted: 130 } as const;

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, process.stdout.isTTY ? 2 : 0)}\n`);
}

export function printError(error: unknown, json = false): void {
  if (json) {
    process.stdout.write(`${JSON.stringify({ error: errorAsJson(error) })}\n`);
    return;
  }
  process.stderr.write(`${describeError(error)}\n`);
}

export function errorAsJson(thrown: unknown): ReturnType<BanyanError['toJSON']> {
  const error = explainSystemError(thrown);
  if (error instanceof BanyanError) return error.toJSON();
  return { code: 'UNEXPECTED', what: (error as Error)?.stack ?? String(error) };
}

/** An error as a person reads it: what, where, what to do. One that we did not expect keeps its stack. */
export function describeError(thrown: unknown): string {
  const error = explainSystemError(thrown);
  const mark = pc.red(pc.bold('✖'));
  if (!(error instanceof BanyanError)) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return `${mark} Unexpected: ${text}`;
  }
  const lines = [`${mark} ${pc.bold(error.what.trimEnd())}`];
  if (error.where) lines.push(`  ${pc.dim('where')}  ${error.where}`);
  if (error.remedy) lines.push(`  ${pc.dim('to do')}  ${error.remedy}`);
  return lines.join('\n');
}

/** `1.24 s`, `85 ms`. */
export function duration(ms: number): string {
  return ms < 100 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(2)} s`;
}

/** `3 min`, `2 h`: how long ago an ISO 8601 time was. */
export function ago(iso: string): string {
  const seconds = Math.max(0, (Date.now() - Date.parse(iso)) / 1_000);
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** Lines up columns; the last is as long as it is. Colours do not count. */
export function columns(rows: string[][]): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [index, cell] of row.entries()) {
      widths[index] = Math.max(widths[index] ?? 0, visibleLength(cell));
    }
  }
  return rows
    .map(row =>
      row
        .map((cell, index) =>
          index === row.length - 1 ? cell : cell + ' '.repeat(widths[index]! - visibleLength(cell)),
        )
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function visibleLength(text: string): number {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: an escape sequence begins with one
  return text.replace(/\u001b\[[0-9;]*m/g, '').length;
}
