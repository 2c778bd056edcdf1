/**
 * The files of an assets folder: opened for a request, together with their content's hash.
 *
 * Holds true here:
 * - Facts and bytes are those of the same open file. A file that is replaced while it is asked for is
 *   sent as it was or as it is, never with the hash or the length of the other: an edge keeps a
 *   fingerprinted name for ever, and a wrong length leaves a browser waiting.
 * - The hash is of the content, not of the time of change: every web server gives a file the same ETag,
 *   whenever and wherever it was copied to. It is computed once and again when the file has changed.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, realpath } from 'node:fs/promises';
import path from 'node:path';
import { hasCode } from '../../errors.ts';

export interface AssetFile {
  size: number;
  modified: Date;
  /** SHA-256 of the content, hexadecimal. */
  hash: string;
}

/** Whoever gets one closes its handle, or reads it as a stream, which closes it. */
export interface OpenFile extends AssetFile {
  handle: FileHandle;
}

/** Precompressed variants, the smaller first. They lie beside the file: `app.css.br`. */
export const VARIANTS = [
  { encoding: 'br', suffix: '.br' },
  { encoding: 'zstd', suffix: '.zst' },
  { encoding: 'gzip', suffix: '.gz' },
] as const;

/** Files whose hashes are remembered; beyond this the oldest is forgotten, and hashed again when asked for. */
const REMEMBERED = 10_000;

/** A file that changes while it is read is read again, this often. */
const HASH_ROUNDS = 5;

const CHUNK_BYTES = 256 * 1024;

/** No link in the last place (the path is resolved already), and no wait for whoever writes into a pipe. */
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

interface Facts {
  size: number;
  modified: Date;
  /** Another for every content: what the file system knows to differ. */
  stamp: string;
}

export class FileIndex {
  readonly #root: string;
  readonly #hashes = new Map<string, { stamp: string; hash: Promise<string> }>();

  constructor(folder: string) {
    this.#root = path.resolve(folder);
  }

  /**
   * @param name relative to the folder, with `/`, decoded
   * @returns undefined when there is no such file, or when it would lie outside or be hidden
   */
  async open(name: string): Promise<OpenFile | undefined> {
    if (!isSafe(name)) return undefined;
    const handle = await this.#openInside(name);
    if (!handle) return undefined;
    try {
      const file = await this.#describe(name, handle);
      if (file) return { ...file, handle };
    } catch (error) {
      await handle.close();
      throw error;
    }
    await handle.close();
    return undefined;
  }

  async #openInside(name: string): Promise<FileHandle | undefined> {
    try {
      const root = await realpath(this.#root);
      // Resolved, so that a link may not lead out of the folder.
      const real = await realpath(path.join(root, name));
      if (!real.startsWith(root + path.sep)) return undefined;
      return await open(real, OPEN_FLAGS);
    } catch (error) {
      if (hasCode(error, 'ENOENT', 'ENOTDIR', 'ENAMETOOLONG', 'ELOOP', 'ENXIO')) return undefined;
      throw error;
    }
  }

  async #describe(name: string, handle: FileHandle): Promise<AssetFile | undefined> {
    for (let round = 1; ; round++) {
      const facts = await factsOf(handle);
      if (!facts) return undefined;
      const hash = await this.#hash(name, facts, handle);
      const after = await factsOf(handle);
      if (after?.stamp === facts.stamp || round === HASH_ROUNDS) {
        return { size: facts.size, modified: facts.modified, hash };
      }
      this.#hashes.delete(name);
    }
  }

  #hash(name: string, { stamp }: Facts, handle: FileHandle): Promise<string> {
    const known = this.#hashes.get(name);
    if (known?.stamp === stamp) return known.hash;
    const hash = hashOf(handle);
    this.#hashes.delete(name);
    this.#hashes.set(name, { stamp, hash });
    if (this.#hashes.size > REMEMBERED) this.#hashes.delete(this.#hashes.keys().next().value!);
    // A file that could not be read is tried again the next time.
    hash.catch(() => this.#hashes.delete(name));
    return hash;
  }
}

/** @returns undefined for a folder, a device and the like */
async function factsOf(handle: FileHandle): Promise<Facts | undefined> {
  const stats = await handle.stat({ bigint: true });
  if (!stats.isFile()) return undefined;
  return {
    size: Number(stats.size),
    modified: stats.mtime,
    stamp: [stats.dev, stats.ino, stats.size, stats.mtimeNs, stats.ctimeNs].join(':'),
  };
}

/** No way up, no hidden file, no byte that a file system reads otherwise. */
function isSafe(name: string): boolean {
  return (
    name !== '' &&
    !/[\0\\]/.test(name) &&
    name.split('/').every(part => part !== '' && !part.startsWith('.'))
  );
}

/** By position, so that the handle can be read from its start afterwards. */
async function hashOf(handle: FileHandle): Promise<string> {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
  for (let at = 0; ; ) {
    const { bytesRead } = await handle.read(buffer, 0, CHUNK_BYTES, at);
    if (bytesRead === 0) return hash.digest('hex');
    hash.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
}
