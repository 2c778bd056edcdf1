/**
 * A way for an older `pg_dump` to read a newer server.
 *
 * `pg_dump` refuses a server that is newer than itself, since it cannot know what was added. A move from rung 1
 * (whose PostgreSQL comes from npm, without `pg_dump`) to the system's older PostgreSQL needs just that: the
 * schema in the older one's words. So a relay stands in between, which changes one thing alone: the version
 * that the server tells at the start of a session.
 *
 * What the newer server has and the older cannot have is looked for beforehand (`movable.ts`), and afterwards both
 * schemas are compared (`compare-schema.ts`): what this cannot carry over is refused, not lost.
 */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import type { ServerAddress } from '../running.ts';

export interface Relay extends ServerAddress {
  close(): void;
}

/**
 * @param version what to tell in place of the server's own: `15.0`
 */
export async function olderFace(server: ServerAddress, version: string): Promise<Relay> {
  const sockets = new Set<Socket>();
  const relay = createServer(client => {
    const upstream = connect(server.port, server.host);
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.once('close', () => {
        sockets.delete(socket);
        client.destroy();
        upstream.destroy();
      });
    }
    client.pipe(upstream);
    relayAnswers(upstream, client, version);
  });
  await new Promise<void>((resolve, reject) => {
    relay.once('error', reject);
    relay.listen(0, '127.0.0.1', resolve);
  });
  return {
    host: '127.0.0.1',
    port: (relay.address() as AddressInfo).port,
    close() {
      relay.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

const PARAMETER_STATUS = 'S'.charCodeAt(0);
const READY_FOR_QUERY = 'Z'.charCodeAt(0);

/** Messages are read until the first ReadyForQuery; after that, bytes are passed on as they come. */
function relayAnswers(server: Socket, client: Socket, version: string): void {
  let pending = Buffer.alloc(0);
  const onData = (chunk: Buffer) => {
    pending = Buffer.concat([pending, chunk]);
    // A type, and a length that counts itself.
    while (pending.length >= 5) {
      const length = 1 + pending.readUInt32BE(1);
      if (pending.length < length) return;
      const message = pending.subarray(0, length);
      pending = pending.subarray(length);
      client.write(message[0] === PARAMETER_STATUS ? withVersion(message, version) : message);
      if (message[0] !== READY_FOR_QUERY) continue;
      server.off('data', onData);
      if (pending.length > 0) client.write(pending);
      server.pipe(client);
      return;
    }
  };
  server.on('data', onData);
}

function withVersion(message: Buffer, version: string): Buffer {
  const [name] = message.subarray(5).toString('utf8').split('\0');
  if (name !== 'server_version') return message;
  const body = Buffer.from(`${name}\0${version}\0`);
  const changed = Buffer.alloc(5 + body.length);
  changed[0] = PARAMETER_STATUS;
  changed.writeUInt32BE(4 + body.length, 1);
  body.copy(changed, 5);
  return changed;
}
