/**
 * The account that an engine runs as when the supervisor is root and the engine refuses root.
 *
 * Such an account has to reach the engine's programs and its data. In a folder that only root may
 * enter it cannot, so the engine then lives under `SYSTEM_FOLDER` instead.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { lstat, mkdir, realpath, rm, symlink } from 'node:fs/promises';
import path from 'node:path';
import { BanyanError } from '../errors.ts';
import type { Account } from '../machines/unit.ts';

/** Where engines of root's deployments live when the application's folder is closed to other accounts. */
export const SYSTEM_FOLDER = '/var/lib/banyan';

/** In this order; `nobody` is on every system. */
const CANDIDATES = ['banyan', 'postgres', 'nobody'];

export class NoAccount extends BanyanError {
  constructor() {
    super('NO_ACCOUNT', {
      what: 'PostgreSQL refuses to run as root, and there is no other account to run it as',
      where: CANDIDATES.join(', '),
      remedy: 'Add one with `useradd --system banyan`, or run Banyan as an ordinary user',
    });
  }
}

export function isRoot(): boolean {
  return process.getuid?.() === 0;
}

/** @throws NoAccount */
export function unprivilegedAccount(): Account {
  for (const name of CANDIDATES) {
    try {
      const id = (flag: string) =>
        Number(
          execFileSync('id', [flag, name], { stdio: ['ignore', 'pipe', 'ignore'] }).toString(),
        );
      const account = { uid: id('-u'), gid: id('-g') };
      if (account.uid > 0) return account;
    } catch {
      // No such account; the next one.
    }
  }
  throw new NoAccount();
}

/** True when the account may enter all these folders and run these programs: asked by trying, as the account. */
export function canReach(account: Account, ...paths: string[]): boolean {
  const script = 'for path; do test -x "$path" || exit 1; done';
  return (
    spawnSync('/bin/sh', ['-c', script, 'sh', ...paths], { ...account, cwd: '/' }).status === 0
  );
}

/**
 * Decides where a folder lies: where it is, else where it is to be, else, when `account` cannot come by there,
 * `elsewhere` with a link to it.
 * @returns its real path; it is there then
 */
export async function settleFolder(
  folder: string,
  elsewhere: string,
  account: Account | undefined,
): Promise<string> {
  const existing = await realpath(folder).catch(() => undefined);
  if (existing) return existing;
  // A link that leads nowhere is of a first start that failed.
  if (await lstat(folder).catch(() => undefined)) await rm(folder);
  const closed = account && !canReach(account, path.dirname(folder));
  const chosen = closed ? elsewhere : folder;
  await mkdir(chosen, { recursive: true, mode: 0o711 });
  if (closed) await symlink(elsewhere, folder);
  return chosen;
}
