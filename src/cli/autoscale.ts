/** The units `autoscaler-1` and `worker-autoscaler-1` are this command; nobody types it. */
import { autoscale as watchOver } from '../operate/autoscale/autoscaler.ts';
import { DeploymentPaths } from '../operate/deployment.ts';

export async function autoscale({ dir }: { dir: string }): Promise<void> {
  const leaving = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => leaving.abort());
  await watchOver(new DeploymentPaths(dir), leaving.signal);
}
