/**
 * A client as a browser is one: a connection of its own that it keeps open, and an exact answer to the
 * question what became of a request.
 */
import { Agent, request } from 'undici';
import { Refused } from './witness.ts';

export interface Answer {
  status: number;
  body: unknown;
}

/** Before these the request had not left: nothing can have been done. */
const NOT_SENT = ['ECONNREFUSED', 'ENOTFOUND', 'EADDRNOTAVAIL', 'UND_ERR_CONNECT_TIMEOUT'];

export class HttpClient {
  /** The one in use first. */
  readonly #origins: string[];
  readonly #headers: Record<string, string>;
  readonly #agent = new Agent({ connections: 1, pipelining: 1 });

  /** @param origin one, or several as in the DNS: the next is tried when one does not take the connection */
  constructor(origin: string | string[], headers: Record<string, string> = {}) {
    this.#origins = [origin].flat();
    this.#headers = headers;
  }

  /**
   * @throws Refused when the request was certainly not carried out: never sent, or answered with 4xx or
   *   503; another error when it may have been
   */
  async send(...args: Parameters<HttpClient['sendOnce']>): Promise<Answer> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.sendOnce(...args);
      } catch (error) {
        const mayTryNext = error instanceof Refused && NOT_SENT.includes(error.message);
        const isIdempotent = args[0] !== 'POST' && !/^HTTP/.test((error as Error).message);
        if (attempt >= this.#origins.length || !(mayTryNext || isIdempotent)) throw error;
        this.#origins.push(this.#origins.shift()!);
      }
    }
  }

  async sendOnce(
    method: 'GET' | 'POST' | 'PUT' | 'DELETE',
    path: string,
    body?: unknown,
    signal?: AbortSignal,
  ): Promise<Answer> {
    let status: number;
    let text: string;
    try {
      const response = await request(this.#origins[0] + path, {
        method,
        dispatcher: this.#agent,
        headers: {
          ...this.#headers,
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        body: body === undefined ? null : JSON.stringify(body),
        signal: signal ?? null,
      });
      status = response.statusCode;
      text = await response.body.text();
    } catch (error) {
      const { code, message } = error as { code?: string; message: string };
      if (code !== undefined && NOT_SENT.includes(code)) throw new Refused(code);
      throw new Error(code ?? message);
    }
    if (status === 503 || (status >= 400 && status < 500)) throw new Refused(`HTTP ${status}`);
    if (status >= 500) throw new Error(`HTTP ${status}`);
    return { status, body: text === '' ? undefined : JSON.parse(text) };
  }

  close(): Promise<void> {
    return this.#agent.close();
  }
}
