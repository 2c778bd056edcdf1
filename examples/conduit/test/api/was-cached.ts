/** To be imported last, where the topology has a cache: the tests before were answered from it, or some of them. */
import { expect, test } from 'vitest';
import { until } from '../../../../test/support/until.ts';
import { api, site } from './setting.ts';

test('what was read was kept, and given again', async () => {
  for (let count = 0; count < 20; count++) await api.call('GET /tags');
  const counts = await until(
    async () => {
      const serving = (await site.status()).cache?.invalidators.find(({ serves }) => serves);
      return serving?.counts.localHits ? serving.counts : undefined;
    },
    { what: 'the web servers report hits', timeoutMs: 30_000 },
  );
  console.log(counts);
  expect(counts.gaps).toBe(0);
});
