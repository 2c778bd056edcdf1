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
  readonly #origin: string;
  readonly #headers: Record<string, string>;
  readonly #agent = new Agent({ connections: 1, pipelining: 1 });

  constructor(origin: string, headers: Record<string, string> = {}) {
    this.#origin = origin;
    this.#headers = headers;
  }

  /**
   * @throws Refused when the request was certainly not carried out: never sent, or answered with 4xx or
   *   503; another error when it may have been
   */
  async send(
    method: 'GET' | 'POST' | 'PUT' | 'DELETE',
    path: string,
    body?: unknown,
    signal?: AbortSignal,
  ): Promise<Answer> {
    let status: number;
    let text: string;
    try {
      const response = await request(this.#origin + path, {
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
