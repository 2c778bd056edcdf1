/** `banyan backup` and `banyan backups`. */
import pc from 'picocolors';
import type { Backup } from '../engines/pgbackrest-info.ts';
import { type BackupList, listBackups, makeBackup } from '../operate/backup/make.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { ago, type CommonOptions, columns, duration, printJson } from './output.ts';

export interface BackupOptions extends CommonOptions {
  full?: boolean;
}

export async function backup(options: BackupOptions): Promise<void> {
  const json = options.json ?? false;
  const begun = performance.now();
  const made = await makeBackup(new DeploymentPaths(options.dir), options.full ?? false, progress =>
    show(progress, json),
  );
  const ms = Math.round(performance.now() - begun);
  if (json) return printJson({ ...made, ms });
  if (process.stdout.isTTY) process.stdout.write('\u001b[2K');
  process.stdout.write(
    `${pc.green('✔')} ${made.kind} backup ${pc.bold(made.label)}, ${size(made.repositoryBytes)} for ${size(made.databaseBytes)} ${pc.dim(duration(ms))}\n`,
  );
}

function show(progress: number | 'waiting', json: boolean): void {
  const isWaiting = progress === 'waiting';
  if (json) {
    const event = isWaiting ? { event: 'waiting' } : { event: 'progress', percent: progress };
    process.stdout.write(`${JSON.stringify(event)}\n`);
  } else if (process.stdout.isTTY) {
    const text = isWaiting ? 'another backup is under way' : `${Math.floor(progress)} %`;
    process.stdout.write(`\u001b[2K  ${pc.dim(`… ${text}`)}\r`);
  }
}

export async function backups(options: CommonOptions): Promise<void> {
  const list = await listBackups(new DeploymentPaths(options.dir));
  if (options.json) return printJson(list);
  process.stdout.write(`${render(list)}\n`);
}

function render({ repository, backups: all, others, lines, from, until, missing }: BackupList) {
  if (!from) return `No backup yet in ${repository}. Make one with: banyan backup`;
  const rows = all.map(each => [
    each.label,
    each.kind,
    local(each.endedAt),
    pc.dim(`${ago(each.endedAt.toISOString())} ago`),
    size(each.databaseBytes),
    pc.dim(`${size(each.repositoryBytes)} stored`),
    damage(each),
  ]);
  return [
    columns(rows),
    '',
    `Any moment from ${pc.bold(local(from))} to ${pc.bold(until ?? '')} can be restored: banyan restore --to '${local(from)}'`,
    ...lines
      .slice(1)
      .map(({ since, base }) =>
        pc.dim(`  restored at ${local(new Date(since))} to ${local(new Date(base!.at))}`),
      ),
    ...(missing.length > 0
      ? [
          pc.yellow(
            `  ! ${missing.length} segments of the log are missing (${missing[0]} …): no moment after the first of them can be reached from a backup before it`,
          ),
        ]
      : []),
    ...(others > 0
      ? [pc.dim(`  ${others} backups of a database that was here before are kept too`)]
      : []),
    pc.dim(`  in ${repository}`),
  ].join('\n');
}

function damage({ isDamaged }: Backup): string {
  return isDamaged ? pc.red('pages with wrong checksums') : '';
}

/** As `--to` takes it, in this machine's time zone. */
function local(at: Date): string {
  const two = (value: number) => String(value).padStart(2, '0');
  const day = [at.getFullYear(), two(at.getMonth() + 1), two(at.getDate())].join('-');
  return `${day} ${[at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(':')}`;
}

function size(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  for (; value >= 1_000 && unit < units.length - 1; unit++) value /= 1_000;
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}
