/**
 * What is known of the files of an assets folder: their content's hash, size and variants.
 *
 * The hash is of the content, not of the time of change: every web server gives a file the same ETag,
 * whenever and wherever it was copied to. It is computed once and again when the file has changed.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { realpath, stat } from 'node:fs/promises';
import path from 'node:path';
import { hasCode } from '../../errors.ts';

export interface AssetFile {
  /** Absolute. */
  path: string;
  size: number;
  modified: Date;
  /** SHA-256 of the content, hexadecimal. */
  hash: string;
}

/** Precompressed variants, the smaller first. They lie beside the file: `app.css.br`. */
export const VARIANTS = [
  { encoding: 'br', suffix: '.br' },
  { encoding: 'zstd', suffix: '.zst' },
  { encoding: 'gzip', suffix: '.gz' },
] as const;

/** A file's facts are looked up again after this; a burst of requests costs one look. */
const TRUST_MS = 1_000;

interface Known {
  checkedAt: number;
  stamp: string;
  file: Promise<AssetFile | undefined>;
}

/** Files that are remembered; beyond this the oldest is forgotten, and only hashed again when asked for. */
const REMEMBERED = 10_000;

export class FileIndex {
  readonly #root: string;
  readonly #known = new Map<string, Known>();
  #realRoot: Promise<string> | undefined;

  constructor(folder: string) {
    this.#root = path.resolve(folder);
  }

  /**
   * @param name relative to the folder, with `/`, decoded
   * @returns undefined when there is no such file, or when it would lie outside or be hidden
   */
  async find(name: string): Promise<AssetFile | undefined> {
    if (!isSafe(name)) return undefined;
    const known = this.#known.get(name);
    if (known && performance.now() - known.checkedAt < TRUST_MS) return known.file;

    const facts = await this.#look(name);
    const stamp = facts ? `${facts.real}:${facts.size}:${facts.modified.getTime()}` : '';
    if (known?.stamp === stamp) {
      known.checkedAt = performance.now();
      return known.file;
    }
    const file = facts
      ? hashOf(facts.real).then(hash => ({
          path: facts.real,
          size: facts.size,
          modified: facts.modified,
          hash,
        }))
      : Promise.resolve(undefined);
    // Names that are not there are not remembered: anyone can invent them.
    if (facts) this.#remember(name, { checkedAt: performance.now(), stamp, file });
    else this.#known.delete(name);
    return file;
  }

  async #look(name: string): Promise<{ real: string; size: number; modified: Date } | undefined> {
    try {
      this.#realRoot ??= realpath(this.#root);
      const root = await this.#realRoot;
      // Resolved, so that a link may not lead out of the folder.
      const real = await realpath(path.join(root, name));
      if (real !== root && !real.startsWith(root + path.sep)) return undefined;
      const stats = await stat(real);
      return stats.isFile() ? { real, size: stats.size, modified: stats.mtime } : undefined;
    } catch (error) {
      if (hasCode(error, 'ENOENT', 'ENOTDIR', 'ENAMETOOLONG', 'ELOOP')) {
        this.#realRoot = undefined;
        return undefined;
      }
      throw error;
    }
  }

  #remember(name: string, known: Known): void {
    this.#known.delete(name);
    this.#known.set(name, known);
    if (this.#known.size > REMEMBERED) this.#known.delete(this.#known.keys().next().value!);
    // A file that could not be read is tried again the next time.
    known.file.catch(() => this.#known.delete(name));
  }
}

/** No way up, no hidden file, no byte that a file system reads otherwise. */
function isSafe(name: string): boolean {
  return (
    name !== '' &&
    !/[\0\\]/.test(name) &&
    name.split('/').every(part => part !== '' && !part.startsWith('.'))
  );
}

async function hashOf(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
