/**
 * Loaded into a Node process before the application (`node --import`), the other end of
 * `listening-socket.ts`. When the application listens on its `PORT`:
 *
 * - it gets the socket that the machine holds for it, in the place of one of its own;
 * - it can be asked over a Unix socket of its own whether it is ready. While two processes accept from the
 *   same socket, nobody could tell which of them has answered there.
 *
 * It changes nothing else: another port, or a process that did not inherit the descriptor, works as
 * always.
 */
import { fstatSync, rmSync } from 'node:fs';
import net from 'node:net';

/** Names the descriptor in the environment. */
export const SOCKET_VARIABLE = 'BANYAN_SOCKET_FD';
/** Names the path of the Unix socket for probes. */
export const PROBE_VARIABLE = 'BANYAN_PROBE_SOCKET';

const descriptor = Number(process.env[SOCKET_VARIABLE]);
const probePath = process.env[PROBE_VARIABLE];

if (process.env.PORT && probePath && isSocket(descriptor)) {
  const { listen } = net.Server.prototype;
  net.Server.prototype.listen = function (this: net.Server, ...args: unknown[]): net.Server {
    const [first] = args;
    const port =
      typeof first === 'object' && first !== null ? (first as net.ListenOptions).port : first;
    if (String(port) !== process.env.PORT) return listen.apply(this, args as never);
    const callback = args.findLast(arg => typeof arg === 'function') as (() => void) | undefined;
    answerProbes(this, probePath);
    return listen.call(this, { fd: descriptor }, callback);
  } as typeof listen;

  const answerProbes = (server: net.Server, path: string): void => {
    const probes = net.createServer(connection => server.emit('connection', connection));
    // Without it the machine asks on the public port, as it does of a program that is not Node.
    probes.on('error', () => {});
    rmSync(path, { force: true });
    listen.call(probes, { path, readableAll: false, writableAll: false });
    probes.unref();
    const { close } = server;
    server.close = function (this: net.Server, callback?: (error?: Error) => void): net.Server {
      probes.close();
      return close.call(this, callback);
    };
  };
}

function isSocket(fd: number): boolean {
  try {
    return fstatSync(fd).isSocket();
  } catch {
    return false;
  }
}
