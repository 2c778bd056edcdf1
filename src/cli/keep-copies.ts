/** The unit `copies-1` is this command; nobody types it. */
import { runCopies } from '../operate/database/copies/run.ts';
import { DeploymentPaths } from '../operate/deployment.ts';

export async function keepCopies({ dir }: { dir: string }): Promise<void> {
  const leaving = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => leaving.abort());
  await runCopies(new DeploymentPaths(dir), leaving.signal);
}
