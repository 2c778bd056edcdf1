/** The units `invalidator-1` and its like are this command; nobody types it. */
import { invalidate as run } from '../operate/cache/invalidator/invalidator.ts';
import { DeploymentPaths } from '../operate/deployment.ts';

export async function invalidate({ dir, name }: { dir: string; name: string }): Promise<void> {
  const leaving = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => leaving.abort());
  await run(new DeploymentPaths(dir), name, leaving.signal);
}
