#!/usr/bin/env node
// Plain JavaScript that any Node can read, so that an old one gets a sentence and not a syntax error.
import { existsSync } from 'node:fs';
import module from 'node:module';
import { homedir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { isBuilt } from './sources.js';

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 22 || (major === 22 && minor < 18)) {
  console.error(
    `banyan: Node.js ${process.versions.node} is too old; 22.18 or newer is needed.\n` +
      'Install it from your package manager, or add it to the project: npm install --save-dev node@24',
  );
  process.exit(1);
}

// Node 22 still warns that running TypeScript is experimental; the user did not ask.
const { emitWarning } = process;
process.emitWarning = (warning, ...rest) => {
  const kind = typeof rest[0] === 'object' ? rest[0]?.type : rest[0];
  if (kind === 'ExperimentalWarning') return;
  emitWarning.call(process, warning, ...rest);
};

// Compiled code is kept from one command to the next: a third off the start and off the memory. In the
// user's own folder, since whoever can write there decides what runs.
const caches = process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache');
module.enableCompileCache(path.join(caches, 'banyan', 'compiled'));

// The published package has no sources; in a clone they count, unless what was built is of them as they are.
const [src, dist] = ['../src', '../dist'].map(name =>
  fileURLToPath(new URL(name, import.meta.url)),
);
if (existsSync(src) && !isBuilt(src, dist)) await runSources();
else await import('../dist/cli/main.js');

/**
 * In a clone, `import … from 'banyan'` has to mean the sources too: in the configuration, which this
 * process imports, and in the application, which its children run (the condition `banyan-source` in
 * package.json).
 */
async function runSources() {
  const index = new URL('../src/index.ts', import.meta.url).href;
  module.registerHooks({
    resolve: (name, context, next) =>
      name === 'banyan' ? { url: index, shortCircuit: true } : next(name, context),
  });
  const condition = '--conditions=banyan-source';
  const { NODE_OPTIONS: options = '' } = process.env;
  if (!options.includes(condition)) process.env.NODE_OPTIONS = `${options} ${condition}`.trim();
  await import('../src/cli/main.ts');
}
