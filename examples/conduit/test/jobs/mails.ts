/** Where the deployment under test puts its mails. */
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { temporaryFolder } from '../../../../test/support/deployment.ts';

export const MAIL_FOLDER = temporaryFolder();

/** All that have been sent; not what is being written. */
export async function mails(): Promise<string[]> {
  const files = await readdir(MAIL_FOLDER);
  const sent = files.filter(file => file.endsWith('.eml'));
  return Promise.all(sent.map(file => readFile(path.join(MAIL_FOLDER, file), 'utf8')));
}
