import { defineConfig } from 'vitest/config';

export default defineConfig({
  resolve: { conditions: ['banyan-source'] },
  ssr: { resolve: { conditions: ['banyan-source', 'node'] } },
  test: {
    // What the tests run as commands and as applications is the package as it is published.
    globalSetup: ['test/support/build.ts'],
    include: ['test/**/*.test.ts', 'examples/*/test/**/*.test.ts'],
    // Real engines start in these tests; two at a time is what a two-core machine carries.
    maxWorkers: 2,
    testTimeout: 240_000,
    hookTimeout: 240_000,
  },
});
