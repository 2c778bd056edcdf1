/** Workers that are processes of their own, to be killed, frozen and stopped; and the job that they do, which says what happens. */
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import * as v from 'valibot';
import { DRAIN_VARIABLE } from '../../src/app/environment.ts';
import { defineJob } from '../../src/app/queue/definitions.ts';
import { REPOSITORY } from './deployment.ts';

export const MAX_ATTEMPTS = 3;

export const told = defineJob({
  name: 'told',
  schema: v.object({
    n: v.number(),
    /** `die`: kills its process. `wait`: until `gate` has its process. `hang`: never ends. Default: writes its effect at once. */
    does: v.optional(v.picklist(['die', 'wait', 'hang'])),
  }),
  retry: { maxAttempts: MAX_ATTEMPTS, first: 10, factor: 1 },
});

/** What workers write, beside the queue. */
export const TOLD_TABLES = `
  create table begun (n int not null, pid int not null);
  create table gate (pid int primary key);
  create table effects (n int not null, pid int not null)`;

const PROCESS = path.join(REPOSITORY, 'test/support/queue-workers-process.ts');

export interface WorkerProcessOptions {
  url: string;
  leaseMs: number;
  drainMs?: number;
}

export class WorkerProcess {
  readonly #child: ChildProcess;
  /** Resolves when it takes messages. */
  readonly ready: Promise<void>;
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  /** Names of the errors with which `job.transaction` refused it. */
  readonly refused: string[] = [];

  constructor({ url, leaseMs, drainMs = 10_000 }: WorkerProcessOptions) {
    const args = ['--conditions=banyan-source', PROCESS, url, String(leaseMs)];
    this.#child = spawn(process.execPath, args, {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      env: { ...process.env, LOG_LEVEL: 'silent', [DRAIN_VARIABLE]: String(drainMs) },
    });
    const ready = Promise.withResolvers<void>();
    this.ready = ready.promise;
    this.#child.on('message', message => {
      if (message === 'ready') ready.resolve();
      else this.refused.push(String(message));
    });
    this.ended = new Promise(resolve =>
      this.#child.once('exit', (code, signal) => resolve({ code, signal })),
    );
  }

  get pid(): number {
    return this.#child.pid!;
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  async kill(): Promise<void> {
    this.signal('SIGCONT');
    this.signal('SIGKILL');
    await this.ended;
  }
}
