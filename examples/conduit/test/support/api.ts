/** A client of the API that holds every answer against the document, and remembers which it has seen. */
import { expect } from 'vitest';
import { faultsOf, operationOf } from './document.ts';

export interface Answer {
  status: number;
  // biome-ignore lint/suspicious/noExplicitAny: the document's schema has been checked
  body: any;
}

export interface Member {
  username: string;
  email: string;
  password: string;
  token: string;
}

export class Api {
  /** `GET /articles 200` */
  readonly seen = new Set<string>();
  readonly #address: string;
  #members = 0;

  /** @param address of the site */
  constructor(address: string) {
    this.#address = address;
  }

  /**
   * @param request method and path: `GET /articles?limit=1`
   * @param options a text as `body` is sent as it is
   */
  async call(
    request: string,
    { token, body }: { token?: string | undefined; body?: unknown } = {},
  ): Promise<Answer> {
    const [method = '', path = ''] = request.split(' ', 2);
    const response = await fetch(`${this.#address}/api${path}`, {
      method,
      headers: {
        ...(token === undefined ? {} : { authorization: `Token ${token}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined
        ? {}
        : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    const answer: Answer = {
      status: response.status,
      body: text ? JSON.parse(text) : undefined,
    };
    const operation = operationOf(method, path.split('?')[0]!);
    if (operation) {
      this.seen.add(`${operation.method} ${operation.path} ${answer.status}`);
      const faults = faultsOf(operation, answer.status, answer.body);
      expect(faults, `${request} answered ${answer.status} ${text}`).toEqual([]);
    }
    return answer;
  }

  /** A new member with a name of their own. */
  async signUp(name = 'member'): Promise<Member> {
    const username = `${name}-${++this.#members}`;
    const member = { username, email: `${username}@example.com`, password: 'correct horse' };
    const { status, body } = await this.call('POST /users', { body: { user: member } });
    expect(status).toBe(201);
    return { ...member, token: body.user.token };
  }

  /** @returns the slug of a new article */
  async publish(token: string, article: object = {}): Promise<string> {
    const { status, body } = await this.call('POST /articles', {
      token,
      body: { article: { title: 'A title', description: 'About', body: 'Text', ...article } },
    });
    expect(status).toBe(201);
    return body.article.slug;
  }
}
