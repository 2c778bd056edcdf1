/** Answers `GET /metrics`, for Prometheus to ask. */
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { hasCode } from '../../errors.ts';
import { AddressNotHere, PortInUse, portHolder } from '../../machines/free-port.ts';
import { createServer } from '../../machines/http.ts';
import { CONTENT_TYPE } from './exposition.ts';

/**
 * @param port 0: any free one
 * @param read what it answers; when it throws the answer is 503 with the reason, and Prometheus notes that it is down
 * @returns the server, and its port. @throws PortInUse, AddressNotHere
 */
export async function serveMetrics(
  host: string,
  port: number,
  read: () => Promise<string>,
): Promise<{ server: Server; port: number }> {
  const server = createServer(async ({ url = '/', method }, response) => {
    if (new URL(url, 'http://localhost').pathname !== '/metrics') {
      return response.writeHead(404).end('The metrics are at /metrics\n');
    }
    if (method !== 'GET' && method !== 'HEAD') {
      return response.writeHead(405, { allow: 'GET, HEAD' }).end();
    }
    try {
      const text = await read();
      response.writeHead(200, { 'content-type': CONTENT_TYPE }).end(text);
    } catch (error) {
      response.writeHead(503).end(`${(error as Error).message}\n`);
    }
  });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  server.listen(port, host, resolve);
  try {
    await promise;
  } catch (error) {
    if (hasCode(error, 'EADDRINUSE')) {
      throw new PortInUse(port, host, await portHolder(port), 'Choose another, or 0 for any');
    }
    if (hasCode(error, 'EADDRNOTAVAIL', 'ENOTFOUND', 'EACCES')) {
      throw new AddressNotHere(host, (error as Error).message, '--host');
    }
    throw error;
  }
  return { server, port: (server.address() as AddressInfo).port };
}
