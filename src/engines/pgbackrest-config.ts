/** Renders pgBackRest's configuration, and the script that PostgreSQL archives its log with. Pure. */

export interface BackrestSettings {
  /** Where backups and log go; absolute. */
  repository: string;
  /** Full backups. */
  keep: number;
  /** Log that waits for longer than this much is thrown away, so that the database goes on. */
  backlogMb: number;
  /** Encrypts the repository; undefined: it is not. */
  passphrase: string | undefined;
  /** For locks and passing files; absolute. */
  workFolder: string;
  /** Processes that compress. */
  processes: number;
}

/** `pgbackrest.conf`, whole. Which server is meant is told on the command line. */
export function renderBackrestConfig(settings: BackrestSettings): string {
  const { repository, keep, backlogMb, passphrase, workFolder, processes } = settings;
  const values: Record<string, string | number> = {
    'repo1-path': repository,
    'repo1-retention-full': keep,
    // Many small files become few: an empty database has a thousand.
    'repo1-bundle': 'y',
    ...(passphrase ? { 'repo1-cipher-type': 'aes-256-cbc', 'repo1-cipher-pass': passphrase } : {}),
    'archive-push-queue-max': `${backlogMb}MB`,
    'compress-type': 'zst',
    'process-max': processes,
    // Else a backup waits for the next checkpoint, minutes away.
    'start-fast': 'y',
    // Files are for the account alone: the umask of whoever runs it counts.
    'neutral-umask': 'n',
    'lock-path': `${workFolder}/lock`,
    'spool-path': `${workFolder}/spool`,
    'log-level-file': 'off',
  };
  const lines = Object.entries(values).map(([name, value]) => `${name}=${value}`);
  return `# Written by Banyan at every start.\n[global]\n${lines.join('\n')}\n`;
}

/**
 * The script that archives one file of the log. One for all servers, so that they can agree on it: PostgreSQL runs it
 * in the data folder and names the file from there; Patroni, before `pg_rewind`, names it whole.
 */
export function renderArchiveScript(program: string, config: string, stanza: string): string {
  return `#!/bin/sh
# Written by Banyan: archives one file of the log.
umask 077
case $1 in
  /*) data=\${1%/pg_wal/*} ;;
  *) data=$(pwd -P) ;;
esac
exec ${[program, `--config=${config}`, `--stanza=${stanza}`].map(quote).join(' ')} --pg1-path="$data" archive-push "$1"
`;
}

/** Split by a shell in PostgreSQL, by Patroni's own rules in `pg_rewind`. */
export function archiveCommandOf(script: string): string {
  // `%` begins a placeholder.
  return `${quote(script).replaceAll('%', '%%')} %p`;
}

/** How PostgreSQL gets a file of the log back. */
export function restoreCommandOf(
  program: string,
  config: string,
  stanza: string,
  dataFolder: string,
): string {
  const words = [
    program,
    `--config=${config}`,
    `--stanza=${stanza}`,
    `--pg1-path=${dataFolder}`,
    // It is told in the server's log otherwise that the file after the last is not there.
    '--log-level-console=off',
    '--log-level-stderr=error',
  ];
  return `${words.map(quote).join(' ').replaceAll('%', '%%')} archive-get %f "%p"`;
}

function quote(word: string): string {
  return /^[\w./=:-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
