/** What holds for every operation of the document. */
import { describe, expect, test } from 'vitest';
import { faultsOf, operationOf, operations } from '../support/document.ts';
import { ann, api, errorsOf, site } from './setting.ts';

describe('what holds for every operation', () => {
  test('the document’s judge finds what is missing, wrong, too much or no error', () => {
    const profiles = operationOf('GET', '/profiles/x')!;
    const profile = { username: 'x', bio: '', image: '', following: false };
    expect(faultsOf(profiles, 200, { profile })).toEqual([]);
    expect(faultsOf(profiles, 200, { profile: { ...profile, bio: null } })).toHaveLength(1);
    expect(faultsOf(profiles, 200, { profile: { ...profile, email: 'x' } })).toHaveLength(1);
    expect(faultsOf(profiles, 200, {})).toHaveLength(1);
    expect(faultsOf(profiles, 422, { errors: { body: ['x'], name: ['x'] } })).toEqual([]);
    expect(faultsOf(profiles, 422, { errors: { name: ['x'] } })).toHaveLength(1);
  });

  const fill = (path: string) =>
    path.replace('{username}', 'x').replace('{slug}', 'x').replace('{id}', '1');
  const body = (method: string) => (method === 'POST' || method === 'PUT' ? { body: {} } : {});

  test('where one has to be logged in, nobody is told so with 401', async () => {
    for (const { method, path, responses } of operations) {
      const isOpen = method === 'GET' && !['/user', '/articles/feed'].includes(path);
      if (isOpen || path.startsWith('/users') || !responses.has(401)) continue;
      const { status, errors } = await errorsOf(`${method} ${fill(path)}`, body(method));
      expect([method, path, status, errors.token]).toEqual([method, path, 401, ['is missing']]);
    }
  });

  test('a token that is no good is told so with 401, even where none is needed', async () => {
    const [header, , signature] = ann.token.split('.');
    const forged = `${header}.${btoa('{"sub":"1","ver":1}')}.${signature}`;
    for (const token of ['x', forged]) {
      for (const { method, path, responses } of operations) {
        if (path.startsWith('/users') || !responses.has(401)) continue;
        const { status, errors } = await errorsOf(`${method} ${fill(path)}`, {
          token,
          ...body(method),
        });
        expect([method, path, status, errors.token]).toEqual([method, path, 401, ['is invalid']]);
      }
    }
  });

  test('an unknown article is not found', async () => {
    for (const { method, path } of operations.filter(operation =>
      operation.path.includes('{slug}'),
    )) {
      const input = { article: { title: 'x' }, comment: { body: 'x' } };
      const { status, errors } = await errorsOf(`${method} ${fill(path)}`, {
        token: ann.token,
        ...(method === 'POST' || method === 'PUT' ? { body: input } : {}),
      });
      expect([method, path, status, errors.article]).toEqual([method, path, 404, ['not found']]);
    }
  });

  test('front ends on other sites may use it', async () => {
    const response = await fetch(`${site.address}/api/articles`, {
      method: 'OPTIONS',
      headers: {
        origin: 'https://front.example',
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization, content-type',
      },
    });
    expect(response.status).toBe(204);
    expect(response.headers.get('access-control-allow-origin')).toBe('*');
    expect(response.headers.get('access-control-allow-headers')).toContain('authorization');
  });

  test('an address that is none, or cannot be, is not found', async () => {
    for (const request of [
      'GET /nothing',
      'GET /articles/a%00b',
      'GET /profiles/%00',
      'PATCH /user',
    ]) {
      expect([request, (await api.call(request)).status]).toEqual([request, 404]);
    }
  });

  /** Documented, but there is nothing in such a request that could be invalid: unknown names are 404. */
  const NOTHING_TO_VALIDATE = [
    'GET /user',
    'GET /profiles/{username}',
    'DELETE /profiles/{username}/follow',
    'GET /articles/{slug}',
    'DELETE /articles/{slug}',
    'GET /articles/{slug}/comments',
    'POST /articles/{slug}/favorite',
    'DELETE /articles/{slug}/favorite',
    'GET /tags',
  ].map(operation => `${operation} 422`);

  test('every status that the document has was seen, or cannot be', async () => {
    await api.call('GET /articles', { token: ann.token });
    await api.call('GET /articles/feed', { token: ann.token });
    await api.call('GET /articles?limit=0');
    await api.call('GET /articles/feed?offset=-1', { token: ann.token });
    const documented = operations.flatMap(({ method, path, responses }) =>
      [...responses.keys()].map(status => `${method} ${path} ${status}`),
    );
    const unseen = documented.filter(answer => !api.seen.has(answer));
    expect(unseen.sort()).toEqual(NOTHING_TO_VALIDATE.sort());
  });
});
