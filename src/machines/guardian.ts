/**
 * The guardian ends the units when the supervisor is killed with SIGKILL.
 *
 * It is a shell of about one megabyte that reads from a pipe which only the supervisor holds open.
 * When the supervisor is gone, however it went, the kernel closes the pipe, the shell's `read`
 * returns, and it becomes `reap.ts`, which stops the recorded units in their order. It sits in a
 * session of its own, so that a Ctrl-C or a closed terminal does not reach it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { ownModule } from './own-module.ts';

const REAP = fileURLToPath(ownModule('machines/reap'));

export class Guardian {
  readonly #process: ChildProcess;

  /** @param recordsFolder where the units' records lie */
  constructor(recordsFolder: string) {
    this.#process = spawn(
      '/bin/sh',
      [
        '-c',
        'while read -r _; do :; done; exec "$@"',
        'banyan-guardian',
        process.execPath,
        REAP,
        recordsFolder,
      ],
      { detached: true, stdio: ['pipe', 'ignore', 'ignore'], cwd: '/' },
    );
    this.#process.on('error', () => {});
    this.#process.stdin?.on('error', () => {});
    this.#process.unref();
  }

  /** Sends it home, everything having been stopped in order; resolves when it is gone. */
  async dismiss(): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const gone = new Promise(resolve => this.#process.once('exit', resolve));
    // Nothing else may keep this process until then.
    this.#process.ref();
    this.#process.kill('SIGKILL');
    await gone;
  }
}
