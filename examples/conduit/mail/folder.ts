/**
 * Mail as files: `<id>.eml` in a folder, for whoever looks at them or sends them on. Another way of sending is another
 * function that gives a `Mailer`.
 *
 * Holds true here: a file is whole or not there. The same mail twice is one file.
 */
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import path from 'node:path';

export interface Mail {
  /** Of letters and digits. Mails with the same id are the same mail: it may be sent again after a crash. */
  id: string;
  to: string;
  subject: string;
  text: string;
}

export interface Mailer {
  /** Resolves when it is on its way for good. */
  send(mail: Mail): Promise<void>;
}

const SENDER = 'Conduit <conduit@example.com>';

/** Where mails go unless `MAIL_FOLDER` says something else. */
export function defaultFolder(): string {
  return path.join(tmpdir(), `conduit-mail-${userInfo().uid}`);
}

export function mailFolder(folder: string): Mailer {
  return {
    async send(mail) {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      const file = path.join(folder, `${mail.id}.eml`);
      // Of this process: two that write the same mail do not write into each other's.
      const draft = `${file}.${process.pid}`;
      await writeFile(draft, textOf(mail), { mode: 0o600, flush: true });
      await rename(draft, file);
    },
  };
}

/** RFC 5322. A header is one line, whatever is in it, and has ASCII alone (RFC 2047). */
function textOf({ id, to, subject, text }: Mail): string {
  const lines = [
    `Message-ID: <${id}@conduit.example.com>`,
    `From: ${SENDER}`,
    `To: <${to.replace(/[\r\n<>]/g, '')}>`,
    `Subject: ${encoded(subject)}`,
    'MIME-Version: 1.0',
    'Content-Type: text/plain; charset=utf-8',
    'Content-Transfer-Encoding: 8bit',
    '',
    ...text.split('\n'),
  ];
  return lines.join('\r\n');
}

function encoded(text: string): string {
  if (/^[\x20-\x7e]*$/.test(text)) return text;
  return `=?utf-8?B?${Buffer.from(text).toString('base64')}?=`;
}
