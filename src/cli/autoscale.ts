/** The units `autoscaler-1` and `worker-autoscaler-1` are this command; nobody types it. */
import { DeploymentPaths } from '../operate/deployment.ts';

export async function autoscale({ dir, tier }: { dir: string; tier: string }): Promise<void> {
  const leaving = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => leaving.abort());
  const watchOver =
    tier === 'workers'
      ? (await import('../operate/workers/autoscaler.ts')).autoscaleWorkers
      : (await import('../operate/autoscale/autoscaler.ts')).autoscale;
  await watchOver(new DeploymentPaths(dir), leaving.signal);
}
