/** A deployment that all the API's tests share, with two members. */
import { afterAll, beforeAll } from 'vitest';
import { deployExample, type Site } from '../../../../test/support/deployment.ts';
import { Api, type Member } from '../support/api.ts';
import { topology } from './topology.ts';

export let site: Site;
export let api: Api;
export let ann: Member;
export let ben: Member;

beforeAll(async () => {
  site = await deployExample('conduit', topology);
  api = new Api(site.address);
  ann = await api.signUp('ann');
  ben = await api.signUp('ben');
});
afterAll(() => site?.remove());

export async function errorsOf(
  request: string,
  options: Parameters<Api['call']>[1],
): Promise<{ status: number; errors: Record<string, string[]> }> {
  const { status, body } = await api.call(request, options);
  return { status, errors: body.errors };
}
