/** Where releases lie. */
import path from 'node:path';
import type { DeploymentPaths } from '../deployment.ts';

/** @param release 0 is the application's folder as it is */
export function releaseFolder(paths: DeploymentPaths, release: number): string {
  return release === 0 ? paths.app : path.join(paths.releases, String(release));
}
