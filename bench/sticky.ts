/**
 * What `sticky: true` costs, against the same servers without it:
 *
 * - a few heavy clients and many light ones: how evenly the requests are spread;
 * - one server is killed under them: which requests fail, and which clients find themselves on another
 *   server, without what the old one kept for them.
 *
 *     node bench/sticky.ts [--servers 4] [--clients 24] [--requests 6000]
 *
 * Takes about half a minute, and ends whatever it started.
 */
import { parseArgs } from 'node:util';
import { Agent, request } from 'undici';
import { balancedSite } from '../test/support/balanced-app.ts';

const { values } = parseArgs({
  options: {
    servers: { type: 'string', default: '4' },
    clients: { type: 'string', default: '24' },
    requests: { type: 'string', default: '6000' },
  },
});
const servers = Number(values.servers);
const clients = Number(values.clients);
const requests = Number(values.requests);

/** As users are: the second sends half of what the first does, the third a third, … (Zipf) */
const shares = Array.from({ length: clients }, (_, index) => 1 / (index + 1));
const whole = shares.reduce((sum, share) => sum + share, 0);

class Client {
  readonly #agent = new Agent({ connections: 1, pipelining: 1 });
  readonly #origin: string;
  #cookie: string | undefined;
  /** That answered last. */
  server: string | undefined;

  constructor(origin: string) {
    this.#origin = origin;
  }

  /** @returns whether it was answered */
  async send(method: 'GET' | 'POST'): Promise<boolean> {
    try {
      const { statusCode, headers, body } = await request(`${this.#origin}/who`, {
        method,
        dispatcher: this.#agent,
        headers: this.#cookie ? { cookie: this.#cookie } : {},
      });
      const text = await body.text();
      if (statusCode !== 200) return false;
      const set = [headers['set-cookie'] ?? []].flat()[0];
      if (set) this.#cookie = set.split(';')[0];
      this.server = text;
      return true;
    } catch {
      return false;
    }
  }

  close(): Promise<void> {
    return this.#agent.close();
  }
}

console.log(
  `${servers} servers, ${clients} clients of which the heaviest sends ${(100 / whole).toFixed(0)} % of all requests`,
);
for (const sticky of [false, true]) {
  const site = await balancedSite({ web: { servers, sticky } });
  const crowd: Client[] = [];
  try {
    await site.up();
    for (let i = 0; i < clients; i++) crowd.push(new Client(site.address));
    console.log(`\n${sticky ? 'sticky: true' : 'sticky: false'}`);
    await spread(crowd);
    await lose(crowd, () => site.pidOf('web-1').then(pid => process.kill(pid, 'SIGKILL')), sticky);
  } finally {
    for (const client of crowd) await client.close();
    await site.remove();
  }
}

async function spread(crowd: Client[]): Promise<void> {
  const got = new Map<string, number>();
  await Promise.all(
    crowd.map(async (client, index) => {
      const count = Math.round((requests * shares[index]!) / whole);
      for (let i = 0; i < count; i++) {
        await client.send('GET');
        got.set(client.server!, (got.get(client.server!) ?? 0) + 1);
      }
    }),
  );
  const counts = [...got.values()].sort((a, b) => b - a);
  const total = counts.reduce((sum, count) => sum + count, 0);
  const percent = counts.map(count => `${Math.round((100 * count) / total)} %`);
  const busiest = ((counts[0]! * servers) / total).toFixed(2);
  console.log(
    `  requests by server      ${percent.join(', ')}; the busiest has ${busiest} of an even share`,
  );
}

/** Every client sends GET and POST by turns; after a while a server is killed under them. */
async function lose(crowd: Client[], kill: () => Promise<unknown>, sticky: boolean): Promise<void> {
  const each = Math.round(requests / clients / 2);
  const failed = { GET: 0, POST: 0 };
  let sent = 0;
  const go = () =>
    Promise.all(
      crowd.map(async client => {
        for (let i = 0; i < each; i++) {
          const method = i % 2 === 0 ? 'GET' : 'POST';
          sent++;
          if (!(await client.send(method))) failed[method]++;
        }
      }),
    );
  await go();
  const before = crowd.map(({ server }) => server);
  const going = go();
  await kill();
  await going;
  console.log(
    `  one server is killed    failed of ${sent} requests: ${failed.GET} GET, ${failed.POST} POST`,
  );
  if (!sticky)
    return console.log('  clients                 each is on every server: nobody can lose more');
  const there = before.filter(server => server === 'web-1').length;
  const moved = crowd.filter(({ server }, index) => server !== before[index]).length;
  console.log(
    `  clients                 ${there} were on the server that was killed, ${moved} are on another now: what it kept for them is lost`,
  );
}
