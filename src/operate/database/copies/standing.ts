/** How copies fare, for `banyan status`: what the unit that keeps them last told. */
import { readFile } from 'node:fs/promises';
import type { DeploymentPaths } from '../../deployment.ts';
import type { CopiesStanding } from './keeper.ts';

/** As it is written to `.banyan/copies.json`. */
export interface CopiesTold extends CopiesStanding {
  /** When, as ISO 8601. */
  at: string;
}

/** Undefined where no copies are kept. */
export async function copiesStanding(paths: DeploymentPaths): Promise<CopiesTold | undefined> {
  try {
    return JSON.parse(await readFile(paths.copies, 'utf8')) as CopiesTold;
  } catch {
    return undefined;
  }
}
