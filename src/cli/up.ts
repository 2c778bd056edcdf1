/** `banyan up`: starts the deployment and stays with it, or leaves it running in the background. */
import { spawn } from 'node:child_process';
import pc from 'picocolors';
import { BanyanError } from '../errors.ts';
import { loadTopology } from '../operate/load-topology.ts';
import {
  forPeople,
  Interrupted,
  type ReadySummary,
  RunningDeployment,
  type UpEvents,
  type UpStep,
} from '../operate/up.ts';
import { type CommonOptions, duration, EXIT, errorAsJson, printError } from './output.ts';

export interface UpOptions extends CommonOptions {
  port?: number;
  host?: string;
  detach?: boolean;
  verbose?: boolean;
}

/** What a background supervisor tells the command that started it. */
type Progress =
  | { [Name in keyof UpEvents]: { event: Name; values: UpEvents[Name] } }[keyof UpEvents]
  | { event: 'failed'; error: ReturnType<BanyanError['toJSON']> };

/** Set in the environment of the background supervisor. */
const BACKGROUND = 'BANYAN_BACKGROUND';

export async function up(options: UpOptions): Promise<void> {
  if (options.detach) return detach(options);
  const background = process.env[BACKGROUND] !== undefined;
  delete process.env[BACKGROUND];
  const view = background ? new IpcView() : options.json ? new JsonView() : new TerminalView();

  // Nobody reads the terminal any more; what runs goes on.
  process.stdout.on('error', () => {});
  process.stderr.on('error', () => {});
  try {
    const { topology, file } = await loadTopology(options.dir);
    if (options.port !== undefined) topology.web.port = options.port;
    if (options.host !== undefined) topology.web.host = options.host;
    const deployment = new RunningDeployment(options.dir, topology);
    view.attach(deployment, { name: topology.name, file, verbose: options.verbose ?? false });
    stopOnSignal(deployment, view);
    await deployment.start();
    await deployment.stopped;
    view.stopped();
  } catch (error) {
    view.failed(error);
    process.exitCode = error instanceof Interrupted ? EXIT.interrupted : EXIT.failed;
  }
}

/** A terminal sends Ctrl-C to npm and to us, and npm sends it on: more than one signal means no more than one. */
function stopOnSignal(deployment: RunningDeployment, view: View): void {
  let asked = false;
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (!asked) view.stopping();
      asked = true;
      void deployment.stop();
    });
  }
}

/** How the course of `up` is shown. */
interface View {
  attach(deployment: RunningDeployment, about: About): void;
  stopping(): void;
  stopped(): void;
  failed(error: unknown): void;
}

interface About {
  name: string;
  file: string | undefined;
  verbose: boolean;
}

class TerminalView implements View {
  attach(deployment: RunningDeployment, { name, file, verbose }: About): void {
    say(
      `${pc.bold(pc.green('banyan'))} ${pc.bold(name)} ${pc.dim(`· one server · ${file ? forPeople(file) : 'no banyan.config.ts: defaults'}`)}`,
    );
    showSteps(deployment);
    deployment.on('ready', summary => {
      showReady(summary);
      say(pc.dim('  Ctrl-C stops everything. In another terminal: banyan status, logs, sql'));
    });
    void this.#showLogs(deployment, verbose);
  }

  /** The prettifier is loaded while PostgreSQL starts, not before. */
  async #showLogs(deployment: RunningDeployment, verbose: boolean): Promise<void> {
    const { LogView } = await import('./log-view.ts');
    const logView = new LogView();
    deployment.logs.on('line', line => {
      if (verbose || isWorthShowing(line)) say(logView.render(line));
    });
  }

  stopping(): void {
    say(pc.dim('stopping: requests in flight finish first …'));
  }

  stopped(): void {
    say(`${pc.green('✔')} stopped; nothing is left running`);
  }

  failed(error: unknown): void {
    printError(error);
  }
}

class JsonView implements View {
  attach(deployment: RunningDeployment): void {
    forEachEvent(deployment, progress => process.stdout.write(`${JSON.stringify(progress)}\n`));
  }
  stopping(): void {}
  stopped(): void {
    process.stdout.write(`${JSON.stringify({ event: 'stopped' })}\n`);
  }
  failed(error: unknown): void {
    printError(error, true);
  }
}

/** Reports to the command that started this background supervisor, as long as it listens. */
class IpcView implements View {
  attach(deployment: RunningDeployment): void {
    forEachEvent(deployment, progress => this.#send(progress));
    deployment.once('ready', () => process.connected && process.disconnect());
  }
  stopping(): void {}
  stopped(): void {}
  failed(error: unknown): void {
    this.#send({ event: 'failed', error: errorAsJson(error) });
    if (process.connected) process.disconnect();
  }
  #send(progress: Progress): void {
    if (process.connected) process.send?.(progress);
  }
}

/** Starts a supervisor in a session of its own, shows its progress, and leaves when it is ready. */
async function detach(options: UpOptions): Promise<void> {
  const args = ['up', '--dir', options.dir];
  if (options.port !== undefined) args.push('--port', String(options.port));
  if (options.host !== undefined) args.push('--host', options.host);
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1]!, ...args], {
    detached: true,
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    env: { ...process.env, [BACKGROUND]: '1' },
  });
  const { promise, resolve } = Promise.withResolvers<number>();
  child.on('message', message => {
    const progress = message as Progress;
    if (options.json) process.stdout.write(`${JSON.stringify(progress)}\n`);
    else showProgress(progress);
    if (progress.event === 'ready') resolve(EXIT.ok);
    if (progress.event === 'failed') resolve(EXIT.failed);
  });
  child.once('exit', code => resolve(code ?? EXIT.failed));
  process.exitCode = await promise;
  if (child.connected) child.disconnect();
  child.unref();
}

function showProgress(progress: Progress): void {
  if (progress.event === 'done') showDone(...progress.values);
  else if (progress.event === 'note') showNote(...progress.values);
  else if (progress.event === 'failed') {
    printError(new BanyanError(progress.error.code, progress.error));
  } else if (progress.event === 'ready') {
    showReady(...progress.values);
    say(pc.dim('  It runs in the background: banyan status, logs -f, sql; banyan down stops it'));
  }
}

function forEachEvent(deployment: RunningDeployment, take: (progress: Progress) => void): void {
  for (const event of ['begin', 'done', 'ready', 'unit', 'note'] as const) {
    deployment.on(event, (...values: unknown[]) => take({ event, values } as Progress));
  }
}

function showSteps(deployment: RunningDeployment): void {
  const isTerminal = process.stdout.isTTY;
  deployment.on('begin', (step, detail) => {
    if (isTerminal) process.stdout.write(`  ${pc.dim('…')} ${label(step)} ${pc.dim(detail)}\r`);
  });
  deployment.on('done', (step, detail, ms) => {
    if (isTerminal) process.stdout.write('\u001b[2K');
    showDone(step, detail, ms);
  });
  deployment.on('note', showNote);
}

function showDone(step: UpStep, detail: string, ms: number): void {
  say(`  ${pc.green('✔')} ${label(step)} ${detail} ${pc.dim(duration(ms))}`);
}

function showNote(text: string): void {
  say(`  ${pc.yellow('!')} ${text}`);
}

function showReady({ address, readyMs, firstPageMs }: ReadySummary): void {
  const page = firstPageMs === undefined ? '' : `; first page (200) after ${duration(firstPageMs)}`;
  say(`  ${pc.bold(pc.cyan(address))}  ready after ${duration(readyMs)}${page}`);
}

/** PostgreSQL's small talk stays in its file; what may be wrong is shown. */
function isWorthShowing({ unit, text }: { unit: string; text: string }): boolean {
  if (!unit.startsWith('postgres')) return true;
  return (
    /\b(ERROR|FATAL|PANIC|WARNING|STATEMENT|HINT|DETAIL):/.test(text) || text.startsWith('banyan:')
  );
}

function label(step: UpStep): string {
  return pc.bold(step.padEnd(10));
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
