/** What the balancer does to a request: who it says it comes from, HTTPS, limits. */
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { connect as connectHttp2 } from 'node:http2';
import path from 'node:path';
import { generate } from 'selfsigned';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { freePort } from '../../../src/machines/free-port.ts';
import type { Balancer } from '../../../src/topology/topology.ts';
import { ask, type Question } from '../../support/ask.ts';
import { balancedSite, configure } from '../../support/balanced-app.ts';
import type { Site } from '../../support/deployment.ts';
import { until } from '../../support/until.ts';

let site: Site;
let tlsPort: number;
beforeAll(async () => {
  tlsPort = await freePort();
  site = await balancedSite({ web: { servers: 2 }, balancer: { tls: { port: tlsPort } } });
  await site.up();
});
afterAll(() => site.remove());

const applied = async (balancer: Balancer) => {
  await configure(site, { web: { servers: 2 }, balancer });
  await site.ok('apply', '--yes');
};

/** What reached the application. */
async function headersAt(url: string, question: Question = {}) {
  const reply = await ask(url, question);
  return { reply, headers: JSON.parse(reply.text) as Record<string, string> };
}

const secureOrigin = () => `https://localhost:${tlsPort}`;
const selfSigned = () => readFileSync(path.join(site.paths.balancer, 'self-signed.pem'), 'utf8');

describe('who a request comes from', () => {
  test('the balancer says it, and what a client forges does not get through', async () => {
    const { headers } = await headersAt(`${site.address}/headers`, {
      from: '127.0.0.77',
      headers: {
        'X-Forwarded-For': '6.6.6.6',
        'X-Forwarded-Proto': 'https',
        'X-Forwarded-Host': 'evil.example',
        'X-Real-IP': '6.6.6.6',
        Forwarded: 'for=6.6.6.6;proto=https',
      },
    });
    expect(headers).toMatchObject({
      'x-forwarded-for': '127.0.0.77',
      'x-forwarded-proto': 'http',
    });
    expect(JSON.stringify(headers)).not.toMatch(/6\.6\.6\.6|evil/);
  });

  test('one id for a request, in the response and in the log of the application', async () => {
    const { reply, headers } = await headersAt(`${site.address}/headers?log=this`, {
      headers: { 'X-Request-Id': 'forged' },
    });
    const id = reply.headers['x-request-id'];
    expect(id).toMatch(/^[0-9a-f-]{36}$/);
    expect(headers['x-request-id']).toBe(id);
    await until(
      async () => {
        const { stdout } = await site.banyan(['logs', '--json']);
        const line = stdout.split('\n').find(text => text.includes('log=this'));
        return line?.includes(String(id));
      },
      { what: 'the log has the line with the id' },
    );
  });
});

describe('HTTPS', () => {
  test('with the certificate that signs itself, for trying', async () => {
    const { headers } = await headersAt(`${secureOrigin()}/headers`, {
      ca: selfSigned(),
      headers: { 'X-Forwarded-Proto': 'http' },
    });
    expect(headers['x-forwarded-proto']).toBe('https');
  });

  test('HTTP/2 is spoken to whoever offers it', async () => {
    const client = connectHttp2(secureOrigin(), { ca: selfSigned() });
    try {
      const answer = await new Promise<{ status: number; text: string }>((resolve, reject) => {
        client.once('error', reject);
        const stream = client.request({ ':path': '/headers' });
        let status = 0;
        let text = '';
        stream.once('response', headers => {
          status = Number(headers[':status']);
        });
        stream.setEncoding('utf8').on('data', chunk => {
          text += chunk;
        });
        stream.once('end', () => resolve({ status, text }));
        stream.once('error', reject);
      });
      expect(client.alpnProtocol).toBe('h2');
      expect(answer.status).toBe(200);
      expect(JSON.parse(answer.text)).toMatchObject({ 'x-forwarded-proto': 'https' });
    } finally {
      client.close();
    }
  });

  test('with a certificate of one’s own, and plain HTTP sent on to it', async () => {
    const { cert, private: key } = await generate([{ name: 'commonName', value: 'localhost' }], {
      extensions: [{ name: 'subjectAltName', altNames: [{ type: 2, value: 'localhost' }] }],
    });
    await writeFile(path.join(site.folder, 'own.pem'), `${cert}\n${key}`);
    await applied({ tls: { port: tlsPort, certificate: 'own.pem', redirect: true } });

    expect((await ask(`${secureOrigin()}/who`, { ca: cert })).status).toBe(200);
    await expect(ask(`${secureOrigin()}/who`, { ca: selfSigned() })).rejects.toThrow(/self-signed/);
    const sentOn = await ask(`${site.address}/a/path?and=query`, { method: 'POST', body: 'x' });
    // 308: with the same method and body.
    expect(sentOn.status).toBe(308);
    expect(sentOn.headers.location).toBe(`https://127.0.0.1:${tlsPort}/a/path?and=query`);
  });

  describe('a certificate that cannot be used is told before anything is touched', () => {
    const expectRefused = async (certificate: string, reason: RegExp) => {
      const before = await site.status();
      const balancer = { algorithm: 'leastconn', tls: { port: tlsPort, certificate } } as const;
      await configure(site, { web: { servers: 3 }, balancer });
      const { code, stdout } = await site.banyan(['apply', '--yes', '--json']);
      expect(code).toBe(1);
      const { error } = JSON.parse(stdout.trim().split('\n').at(-1)!);
      expect(error).toMatchObject({
        code: 'CERTIFICATE_UNUSABLE',
        what: expect.stringMatching(reason),
        where: expect.stringContaining(certificate),
        remedy: expect.stringContaining('Nothing was changed'),
      });
      const pids = ({ units }: typeof before) => units.map(({ pid }) => pid);
      expect(pids(await site.status())).toEqual(pids(before));
      expect((await ask(`${site.address}/who`)).status).toBeLessThan(400);
    };

    test('a file that is not there', () => expectRefused('missing.pem', /ENOENT|no such file/));

    test('a file that is something else', async () => {
      await writeFile(path.join(site.folder, 'other.pem'), 'hello');
      await expectRefused('other.pem', /no certificate in it/);
    });

    test('a certificate without its key', async () => {
      const { cert } = await generate([{ name: 'commonName', value: 'localhost' }]);
      await writeFile(path.join(site.folder, 'bare.pem'), cert);
      await expectRefused('bare.pem', /no private key in it/);
    });

    test('a key of another certificate', async () => {
      const [one, other] = await Promise.all([generate(), generate()]);
      await writeFile(path.join(site.folder, 'mixed.pem'), `${one.cert}\n${other.private}`);
      await expectRefused('mixed.pem', /another certificate/);
    });

    beforeAll(() => applied({ tls: { port: tlsPort } }));
  });
});

describe('limits', () => {
  beforeAll(() => applied({ maxBodyMb: 1, rateLimit: { requests: 20, windowSeconds: 3_600 } }));

  test('a body above the limit is answered with 413, one below is served', async () => {
    const megabyte = Buffer.alloc(1024 * 1024);
    // A client that pours out its body regardless may meet the close before it reads the answer.
    const patient = { method: 'POST', patient: true };
    const served = await ask(`${site.address}/body`, { ...patient, body: megabyte });
    expect(served).toMatchObject({ status: 200, text: '1048576' });
    const body = Buffer.concat([megabyte, Buffer.from('x')]);
    const refused = await ask(`${site.address}/body`, { ...patient, body });
    expect(refused.status).toBe(413);
    expect(refused.headers['x-request-id']).toBeDefined();
  });

  test('too many requests of one client are answered with 429, others are served', async () => {
    const statuses: number[] = [];
    for (let i = 0; i < 25; i++) {
      statuses.push((await ask(`${site.address}/who`, { from: '127.0.0.21' })).status);
    }
    expect(statuses).toEqual([...Array(20).fill(200), ...Array(5).fill(429)]);
    const refused = await ask(`${site.address}/who`, { from: '127.0.0.21' });
    expect(refused.headers['retry-after']).toBe('3600');
    expect((await ask(`${site.address}/who`, { from: '127.0.0.22' })).status).toBe(200);
  });
});
