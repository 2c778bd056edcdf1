/**
 * Cancels what runs on a connection, as `psql` does on Ctrl-C: by a CancelRequest over a connection of its own.
 *
 * Holds true here: a request may come late, and would then cancel what the connection runs next. So whoever gives one
 * waits for its end before the connection does anything else, or closes it.
 *
 * Source: "Canceling Requests in Progress" of PostgreSQL's manual. The request is never encrypted, and needs no
 * authentication but the session's secret.
 */
import net from 'node:net';
import type pg from 'pg';

const CANCEL_REQUEST_CODE = 80_877_102;
/** A server that takes no connection for so long will not cancel anything either. */
const TIMEOUT_MS = 2_000;
const AGAIN_MS = 50;
const RARELY_MS = 1_000;

interface Running {
  readonly host: string;
  readonly port: number;
  readonly processID: number | null;
  readonly secretKey: number | null;
}

/** Resolves when the server has taken the request, or cannot be asked. What becomes of it the statement says. */
function cancelRunning(client: pg.ClientBase): Promise<void> {
  const { host, port, processID, secretKey } = client as unknown as Running;
  if (processID === null || secretKey === null) return Promise.resolve();
  const request = Buffer.alloc(16);
  request.writeInt32BE(16, 0);
  request.writeInt32BE(CANCEL_REQUEST_CODE, 4);
  request.writeInt32BE(processID, 8);
  request.writeInt32BE(secretKey, 12);
  return new Promise(resolve => {
    const socket = host.startsWith('/')
      ? net.connect(`${host}/.s.PGSQL.${port}`)
      : net.connect(port, host);
    socket.setTimeout(TIMEOUT_MS, () => socket.destroy());
    // The server closes it when the signal is sent.
    socket.once('close', () => resolve());
    socket.once('error', () => {});
    socket.once('connect', () => socket.write(request));
    socket.resume();
  });
}

/**
 * Runs something on a connection that is used on after it, until a signal fires.
 * @throws the signal's reason when it has fired before; what `run` throws, which is that it was cancelled
 */
export async function untilAborted<T>(
  signal: AbortSignal | undefined,
  client: pg.ClientBase,
  run: () => Promise<T>,
): Promise<T> {
  if (!signal) return run();
  signal.throwIfAborted();
  const stop = cancelOn(signal, client);
  try {
    return await run();
  } finally {
    // It must not hit what follows on the connection.
    await stop();
  }
}

/**
 * Cancels what a connection runs when a signal fires. A request that comes before the server has begun with its statement does nothing, so
 * it is made again until the statement has ended.
 * @returns to be called when the statement has ended: undefined when nothing was cancelled; else what is to be waited
 *   for before the connection is used again
 */
export function cancelOn(
  signal: AbortSignal,
  client: pg.ClientBase,
): () => Promise<void> | undefined {
  let cancelling: Promise<void> | undefined;
  let timer: NodeJS.Timeout | undefined;
  let isOver = false;
  const cancel = (againMs: number) => {
    cancelling = cancelRunning(client).then(() => {
      if (!isOver) timer = setTimeout(cancel, againMs, Math.min(againMs * 2, RARELY_MS));
    });
  };
  const onAbort = () => cancel(AGAIN_MS);
  signal.addEventListener('abort', onAbort, { once: true });
  return () => {
    isOver = true;
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
    return cancelling;
  };
}
