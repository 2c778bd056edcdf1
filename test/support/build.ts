/** Before any test: builds the package, which the commands and the applications under test run. */
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { isBuilt } from '../../bin/sources.js';

const root = path.resolve(import.meta.dirname, '../..');

export function setup(): void {
  if (isBuilt(path.join(root, 'src'), path.join(root, 'dist'))) return;
  execFileSync(process.execPath, [path.join(root, 'scripts', 'build.ts'), '--js'], {
    stdio: 'inherit',
  });
}
