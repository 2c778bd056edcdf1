/**
 * Holds a response of Node's back until something is done: nothing of it leaves before.
 *
 * Express and Connect know no moment before the response, so its methods are stood in for: what the
 * application writes is queued while the work is done, and played back in its order. The methods stay
 * in their places for the life of the response, since others (compression) may have wrapped them.
 */
import type { OutgoingHttpHeaders, ServerResponse } from 'node:http';

export interface Work {
  /** Asked at the first byte, and again at the end: a stream may have made new work. */
  isNeeded(): boolean;
  run(): Promise<void>;
  /** Called right before the headers are written; may set more. */
  beforeHeaders(): void;
  /** The work failed. The response has been replaced by a 500, or cut off where it had begun. */
  onFailure(error: unknown): void;
}

/** Kept in the response that replaces one that failed: they tell of the request, not of the answer. */
const KEPT_HEADERS = ['x-request-id', 'connection'];

export function holdResponse(res: ServerResponse, work: Work): void {
  const { writeHead, write, end, flushHeaders } = res;
  let phase: 'untouched' | 'working' | 'open' | 'failed' = 'untouched';
  let queue: (() => unknown)[] = [];
  let wantsDrain = false;

  /** Carries `act` out now, or when the work is done. @returns false when it has to wait */
  const pass = (act: () => unknown, isEnd = false): boolean => {
    if (phase === 'working') {
      queue.push(act);
      return false;
    }
    if ((phase === 'untouched' || isEnd) && work.isNeeded()) {
      phase = 'working';
      queue = [act];
      // As far as the application is concerned they are: it must not begin another response.
      if (!res.headersSent) {
        Object.defineProperty(res, 'headersSent', { configurable: true, get: () => true });
      }
      work.run().then(open, fail);
      return false;
    }
    phase = 'open';
    act();
    return true;
  };

  const open = () => {
    phase = 'open';
    Reflect.deleteProperty(res, 'headersSent');
    for (const act of queue.splice(0)) act();
    if (wantsDrain) res.emit('drain');
    wantsDrain = false;
  };

  const fail = (error: unknown) => {
    phase = 'failed';
    queue = [];
    Reflect.deleteProperty(res, 'headersSent');
    work.onFailure(error);
    if (res.headersSent) {
      res.destroy();
      return;
    }
    for (const name of res.getHeaderNames()) {
      if (!KEPT_HEADERS.includes(name)) res.removeHeader(name);
    }
    res.statusCode = 500;
    res.statusMessage = '';
    res.setHeader('content-type', 'text/plain; charset=utf-8');
    res.setHeader('cache-control', 'no-store');
    end.call(res, 'The session could not be stored. Please try again.\n', 'utf8');
  };

  res.writeHead = ((status: number, ...rest: unknown[]): ServerResponse => {
    if (phase === 'failed') {
      return res.headersSent ? res : writeHead.call(res, status);
    }
    res.statusCode = status;
    if (typeof rest[0] === 'string') res.statusMessage = rest.shift() as string;
    setHeaders(res, rest.at(-1) as OutgoingHttpHeaders | string[] | undefined);
    pass(() => {
      work.beforeHeaders();
      writeHead.call(res, res.statusCode);
    });
    return res;
  }) as typeof writeHead;

  res.flushHeaders = () => {
    if (phase !== 'failed') pass(() => flushHeaders.call(res));
  };

  res.write = ((...args: unknown[]): boolean => {
    if (phase === 'failed') {
      callBack(args);
      return true;
    }
    let isFlowing = true;
    const isPassed = pass(() => {
      isFlowing = (write as (...args: unknown[]) => boolean).apply(res, args);
    });
    if (!isPassed) wantsDrain = true;
    return isPassed && isFlowing;
  }) as typeof write;

  res.end = ((...args: unknown[]): ServerResponse => {
    if (phase === 'failed') callBack(args);
    else pass(() => (end as (...args: unknown[]) => ServerResponse).apply(res, args), true);
    return res;
  }) as typeof end;
}

/** What `writeHead` does with the headers that it is given, done before: later ones replace earlier. */
function setHeaders(res: ServerResponse, headers: OutgoingHttpHeaders | string[] | undefined) {
  if (headers === undefined || headers === null) return;
  if (!Array.isArray(headers)) {
    for (const [name, value] of Object.entries(headers)) {
      if (value !== undefined) res.setHeader(name, value);
    }
    return;
  }
  const flat = headers.flat() as string[];
  for (let i = 0; i < flat.length; i += 2) res.removeHeader(flat[i]!);
  for (let i = 0; i < flat.length; i += 2) res.appendHeader(flat[i]!, flat[i + 1]!);
}

/** The writer is not left waiting: what it wrote is dropped. */
function callBack(args: unknown[]): void {
  const callback = args.at(-1);
  if (typeof callback === 'function') process.nextTick(() => callback());
}
