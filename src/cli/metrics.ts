/** `banyan metrics`: what `status` and `queue` tell, for Prometheus. */
import { once } from 'node:events';
import pc from 'picocolors';
import { withController } from '../operate/controller.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { expose } from '../operate/metrics/exposition.ts';
import { metricsOf } from '../operate/metrics/metrics.ts';
import { serveMetrics } from '../operate/metrics/serve.ts';
import { withQueue } from '../operate/queue/queue.ts';
import { type CommonOptions, printJson } from './output.ts';

export interface MetricsOptions extends CommonOptions {
  /** A port: answer there until stopped. */
  listen?: number;
  host: string;
}

export async function metrics(options: MetricsOptions): Promise<void> {
  const { listen, host, json } = options;
  const paths = new DeploymentPaths(options.dir);
  if (listen === undefined) {
    const found = await read(paths);
    if (json) printJson(found);
    else process.stdout.write(await expose(found));
    return;
  }
  const leaving = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => leaving.abort());
  const { server, port } = await serveMetrics(host, listen, async () => expose(await read(paths)));
  const url = `http://${host}:${port}/metrics`;
  if (json) printJson({ url });
  else process.stdout.write(`${pc.green('●')} ${pc.cyan(url)} ${pc.dim('until Ctrl-C')}\n`);
  if (!leaving.signal.aborted) await once(leaving.signal, 'abort');
  server.close();
  server.closeAllConnections();
}

/** @throws NotRunning */
function read(paths: DeploymentPaths) {
  return withController(
    paths,
    async controller => {
      // The rest is told while the queue's database is away.
      const queue = withQueue(controller, each => each.stats()).catch(() => undefined);
      return metricsOf(await controller.machine.status(), await queue);
    },
    { withoutConfig: true },
  );
}
