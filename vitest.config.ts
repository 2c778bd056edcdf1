import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  resolve: { conditions: ['banyan-source'] },
  ssr: { resolve: { conditions: ['banyan-source', 'node'] } },
  test: {
    // What the tests run as commands and as applications is the package as it is published.
    globalSetup: ['test/support/build.ts'],
    include: ['test/**/*.test.ts', 'examples/*/test/**/*.test.ts'],
    // Real engines start in these tests, and many of them wait: for a lease to run out, a server to be missed. Two files at a time used
    // 60 % of two cores.
    maxWorkers: availableParallelism() + 1,
    testTimeout: 240_000,
    hookTimeout: 240_000,
  },
});
