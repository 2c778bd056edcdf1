/** Asks before something is changed. */
import { createInterface } from 'node:readline/promises';

/**
 * @param question for a person: `Write this?`
 * @param unasked the command that does it without asking, for when nobody is here to answer
 */
export async function agrees(question: string, unasked: string): Promise<boolean> {
  if (!process.stdin.isTTY) {
    process.stderr.write(`Nobody is here to ask; do it with: ${unasked}\n`);
    return false;
  }
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  try {
    return /^(y|yes|)$/i.test((await terminal.question(`${question} [Y/n] `)).trim());
  } finally {
    terminal.close();
  }
}
