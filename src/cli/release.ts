/** `banyan release`, `releases` and `rollback`. */
import pc from 'picocolors';
import { withController } from '../operate/controller.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { type Release, ReleaseCatalog } from '../operate/releases/catalog.ts';
import {
  rollback as goBack,
  release as makeRelease,
  type ReleaseProgress,
} from '../operate/releases/release.ts';
import { ago, type CommonOptions, columns, duration, printJson } from './output.ts';
import { operationProgress } from './progress.ts';

export interface ReleaseCommandOptions extends CommonOptions {
  message?: string;
  watch?: number;
}

export async function release(options: ReleaseCommandOptions): Promise<void> {
  const { json = false, message, watch } = options;
  const begun = performance.now();
  await withController(new DeploymentPaths(options.dir), async controller => {
    const number = await makeRelease(
      controller,
      {
        ...(message ? { message } : {}),
        ...(watch === undefined ? {} : { watchMs: watch * 1_000 }),
      },
      releaseProgress(json),
    );
    if (json) printJson({ release: number });
    else {
      const took = pc.dim(
        `${duration(performance.now() - begun)} · taken back by: banyan rollback`,
      );
      process.stdout.write(`${pc.green('✔')} release ${number} serves ${took}\n`);
    }
  });
}

export async function rollback(wanted: number | undefined, options: CommonOptions): Promise<void> {
  const json = options.json ?? false;
  await withController(new DeploymentPaths(options.dir), async controller => {
    const number = await goBack(controller, wanted, releaseProgress(json));
    if (json) printJson({ release: number });
    else process.stdout.write(`${pc.green('✔')} release ${number} serves\n`);
  });
}

export async function releases(options: CommonOptions): Promise<void> {
  await withController(
    new DeploymentPaths(options.dir),
    async ({ catalog, present }) => {
      const all = await new ReleaseCatalog(catalog).all();
      if (options.json) {
        printJson(
          all.map(({ web: _web, ...rest }) => ({
            ...rest,
            serves: rest.number === present.release,
          })),
        );
      } else
        process.stdout.write(
          `${all.length ? render(all, present.release) : 'No release yet: banyan release'}\n`,
        );
    },
    { withoutConfig: true },
  );
}

function render(all: Release[], present: number): string {
  return columns(
    all.map(({ number, createdAt, commit, message, failed }) => [
      `${number === present ? pc.green('●') : failed ? pc.red('✖') : pc.dim('○')} ${number}`,
      `${ago(createdAt.toISOString())} ago`,
      commit ?? '',
      message ?? '',
      failed ? pc.red(`taken back: ${failed}`) : number === present ? 'serves' : '',
    ]),
  );
}

function releaseProgress(json: boolean): ReleaseProgress {
  if (json) return operationProgress(true);
  return {
    ...operationProgress(false),
    preparing: what => process.stdout.write(`  ${pc.cyan('›')} ${what}\n`),
    output: line => process.stdout.write(`    ${pc.dim(`│ ${line}`)}\n`),
  };
}
