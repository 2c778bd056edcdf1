/**
 * An application that tells what reached it, dies or waits when it is asked to, and counts what it did:
 * what the tests of the balancer need.
 */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Topology } from '../../src/topology/topology.ts';
import { type Site, siteOf } from './deployment.ts';

const SERVER = `
  import { createHash } from 'node:crypto';
  import { createServer } from 'node:http';
  import { setTimeout as delay } from 'node:timers/promises';
  import { createPool, lifecycle, log } from 'banyan';

  const pool = createPool({ max: 2 });
  const unit = process.env.BANYAN_UNIT;
  let working = 0;

  const server = createServer(async (req, res) => {
    const url = new URL(req.url!, 'http://x');
    const key = url.searchParams.get('key') ?? '';
    working++;
    res.once('close', () => working--);
    switch (url.pathname) {
      case '/headers':
        log.info({ path: req.url }, 'seen');
        return res.end(JSON.stringify(req.headers));
      case '/cacheable':
        return res.setHeader('cache-control', 'max-age=60').end(unit);
      case '/slow': {
        const together = working;
        await delay(20);
        return res.end(JSON.stringify({ unit, together }));
      }
      case '/compute': {
        const spent = () => process.cpuUsage().user + process.cpuUsage().system;
        const until = spent() + Number(url.searchParams.get('us'));
        while (spent() < until);
        return res.end(unit);
      }
      case '/hold':
        // Until the client leaves.
        return res.write(unit + '\\n');
      case '/body': {
        let bytes = 0;
        for await (const chunk of req) bytes += chunk.length;
        return res.end(String(bytes));
      }
      case '/die': {
        // The first server that gets it dies over it, with the work done and the answer not sent.
        for await (const _ of req);
        await pool.query('insert into hits (key, unit) values ($1, $2)', [key, unit]);
        const { rows } = await pool.query('select count(*)::int from hits where key = $1', [key]);
        if (rows[0].count === 1) process.kill(process.pid, 'SIGKILL');
        return res.end(unit);
      }
      default:
        return res.end(unit);
    }
  });

  // The smallest WebSocket that is one: it sends back each short text, with its own name.
  server.on('upgrade', (req, socket) => {
    const accept = createHash('sha1')
      .update(req.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11')
      .digest('base64');
    socket.write('HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: ' + accept + '\\r\\n\\r\\n');
    socket.on('error', () => {});
    socket.on('data', frame => {
      if ((frame[0]! & 15) === 8) return socket.end(Buffer.from([0x88, 0]));
      const length = frame[1]! & 127;
      const mask = frame.subarray(2, 6);
      const text = Buffer.from(frame.subarray(6, 6 + length).map((byte, i) => byte ^ mask[i % 4]!));
      const reply = Buffer.from(unit + ' ' + text);
      socket.write(Buffer.concat([Buffer.from([0x81, reply.length]), reply]));
    });
  });

  lifecycle(server, { pool });
  server.listen(Number(process.env.PORT), process.env.HOST);
`;

/** Nothing is started. */
export async function balancedSite(topology: Topology): Promise<Site> {
  const site = await siteOf({
    'package.json': JSON.stringify({ name: 'balanced', type: 'module' }),
    'migrations/001-hits.sql': 'create table hits (key text not null, unit text not null);',
    'server.ts': SERVER,
  });
  await configure(site, topology);
  return site;
}

/** Writes the configuration, which the next command reads. */
export async function configure(site: Site, topology: Topology): Promise<void> {
  const text = `export default ${JSON.stringify(topology, null, 2)};\n`;
  await writeFile(path.join(site.folder, 'banyan.config.ts'), text);
}
