/**
 * A line to a PostgreSQL server that breaks at a COMMIT, on either side of it:
 *
 *     const line = await CutLine.to(port);   // close() at the end
 *     line.cut('answer');                    // the next COMMIT arrives, and its answer does not
 *     line.cut('request');                   // the next COMMIT does not arrive
 */
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

const HOST = '127.0.0.1';
const COMMIT = Buffer.from('commit\0');

export class CutLine {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #next: { side: 'answer' | 'request'; meanwhile: () => Promise<void> } | undefined;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async to(port: number): Promise<CutLine> {
    const server = createServer();
    const line = new CutLine(server);
    server.on('connection', client => line.#join(client, port));
    const { promise, resolve } = Promise.withResolvers<void>();
    server.listen(0, HOST, resolve);
    await promise;
    return line;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** @param meanwhile what happens before the client hears that its connection is gone */
  cut(side: 'answer' | 'request', meanwhile: () => Promise<void> = async () => {}): void {
    this.#next = { side, meanwhile };
  }

  /** Breaks all connections now. */
  breakAll(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async close(): Promise<void> {
    this.breakAll();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.close(() => resolve());
    await promise;
  }

  #join(client: Socket, port: number): void {
    const upstream = connect(port, HOST);
    let swallows: (() => void) | undefined;
    let hasSwallowed = false;
    const end = () => {
      client.destroy();
      upstream.destroy();
    };
    for (const socket of [client, upstream]) {
      this.#sockets.add(socket);
      socket.on('error', () => {});
      socket.once('close', () => this.#sockets.delete(socket));
    }
    client.once('close', end);
    upstream.once('close', () => {
      if (!swallows) end();
    });
    client.on('data', data => {
      if (!this.#next || !data.includes(COMMIT)) {
        upstream.write(data);
        return;
      }
      const { side, meanwhile } = this.#next;
      this.#next = undefined;
      swallows = () => {
        if (!hasSwallowed) void meanwhile().finally(end);
        hasSwallowed = true;
      };
      if (side === 'answer') upstream.write(data);
      else {
        upstream.destroy();
        swallows();
      }
    });
    // The answer shows that the COMMIT has been carried out.
    upstream.on('data', data => {
      if (swallows) swallows();
      else client.write(data);
    });
  }
}
