/**
 * Static files: from this server, named so that an edge in front may keep them.
 *
 * Holds true here:
 * - `url('app.css')` names the file with its content's hash; that name may be cached for ever.
 * - A fingerprinted name whose hash is not that of the file here (the page came from an older or a newer
 *   release) is answered with the file that is here, and not to be kept: an edge never learns a wrong
 *   content under a name that is right for ever.
 * - Nothing outside the folder, and no hidden file, is ever sent.
 */

import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import type { Readable } from 'node:stream';
import Negotiator from 'negotiator';
import { readRuntimeMap } from '../../map/map-file.ts';
import { readEnvironment } from '../environment.ts';
import { type AssetAnswer, type AssetRequest, answerAsset } from './answer.ts';
import { FileIndex, type OpenFile, VARIANTS } from './file-index.ts';
import { addFingerprint, FINGERPRINT_LENGTH, isBundled, splitFingerprint } from './fingerprint.ts';

export interface AssetsOptions {
  /** The folder with the files. */
  folder: string;
  /**
   * The path under which they are served.
   * Default: `/`.
   */
  prefix?: string;
  /**
   * How long browsers and edges may keep a file whose name is not fingerprinted, in seconds; they ask
   * again whether it changed after that.
   * Default: 0, which asks every time and costs a 304.
   */
  maxAgeSeconds?: number;
}

export interface FoundAsset extends AssetAnswer {
  /** The bytes; undefined when none are sent. It has to be read or destroyed: a file is open behind it. */
  body: Readable | undefined;
}

const FOR_EVER = 'public, max-age=31536000, immutable';
const NOT_TO_KEEP = 'no-cache, no-store';

/**
 * @example
 * const assets = createAssets({ folder: 'public', prefix: '/static' });
 * app.use(honoAssets(assets));                       // or fastifyAssets, expressAssets
 * html`<link rel="stylesheet" href="${assets.url('app.css')}">`
 */
export function createAssets(options: AssetsOptions): Assets {
  return new Assets(options);
}

export class Assets {
  readonly #folder: string;
  readonly #prefix: string;
  readonly #index: FileIndex;
  readonly #plainCacheControl: string;
  readonly #baseUrl: string;
  readonly #urls = new Map<string, { stamp: string; url: string }>();

  /** @internal use {@link createAssets} */
  constructor({ folder, prefix = '/', maxAgeSeconds = 0 }: AssetsOptions) {
    this.#folder = path.resolve(folder);
    this.#prefix = `/${prefix.replace(/^\/+|\/+$/g, '')}/`.replace(/^\/\/$/, '/');
    this.#index = new FileIndex(folder);
    this.#plainCacheControl =
      maxAgeSeconds > 0 ? `public, max-age=${maxAgeSeconds}` : 'public, no-cache';
    this.#baseUrl = baseUrl();
  }

  /**
   * The URL of a file, with its fingerprint, at the edge if there is one. Synchronous, for templates:
   * it reads the file the first time, and again when it has changed.
   * @param name relative to the folder: `css/app.css`
   * @returns the plain URL when there is no such file, so that the page renders and the 404 tells
   */
  url(name: string): string {
    const clean = name.replace(/^\/+/, '');
    try {
      const file = path.join(this.#folder, clean);
      const { size, mtimeMs } = statSync(file);
      const stamp = `${size}:${mtimeMs}`;
      const known = this.#urls.get(clean);
      if (known?.stamp === stamp) return known.url;
      const hash = createHash('sha256').update(readFileSync(file)).digest('hex');
      const url = this.#absolute(addFingerprint(clean, hash.slice(0, FINGERPRINT_LENGTH)));
      this.#urls.set(clean, { stamp, url });
      return url;
    } catch {
      return this.#absolute(clean);
    }
  }

  /**
   * How a request for a file is to be answered.
   * @param pathname of the request's URL, still encoded
   * @returns undefined when it is not for a file that is here
   */
  async find(
    pathname: string,
    request: AssetRequest & { acceptEncoding: string | undefined },
  ): Promise<FoundAsset | undefined> {
    if (request.method !== 'GET' && request.method !== 'HEAD') return undefined;
    const asked = this.#nameIn(pathname);
    if (asked === undefined) return undefined;
    const found = await this.#named(asked);
    if (!found) return undefined;

    const files = new Map<string, OpenFile>([['identity', found.file]]);
    let body: Readable | undefined;
    try {
      await this.#addVariants(files, found.name);
      const accepted = new Negotiator({
        headers: { 'accept-encoding': request.acceptEncoding ?? 'identity' },
      }).encodings([...files.keys()]);
      const encoding = VARIANTS.map(variant => variant.encoding).find(
        name => files.has(name) && accepted.includes(name),
      );
      const file = files.get(encoding ?? 'identity')!;
      const answer = answerAsset(request, {
        file,
        encoding,
        name: found.name,
        varies: files.size > 1,
        cacheControl: found.cacheControl,
      });
      if (answer.bytes) {
        body = file.handle.createReadStream(answer.bytes);
        files.delete(encoding ?? 'identity');
      }
      return { ...answer, body };
    } finally {
      // All but the one that the stream reads from, and closes.
      await Promise.all([...files.values()].map(({ handle }) => handle.close()));
    }
  }

  async #named(
    asked: string,
  ): Promise<{ name: string; file: OpenFile; cacheControl: string } | undefined> {
    const plain = await this.#index.open(asked);
    if (plain) {
      const cacheControl = isBundled(asked) ? FOR_EVER : this.#plainCacheControl;
      return { name: asked, file: plain, cacheControl };
    }
    const parts = splitFingerprint(asked);
    const file = parts && (await this.#index.open(parts.name));
    if (!parts || !file) return undefined;
    const isThisContent = file.hash.startsWith(parts.fingerprint);
    return { name: parts.name, file, cacheControl: isThisContent ? FOR_EVER : NOT_TO_KEEP };
  }

  /** A variant older than its file is of an earlier content: it is left out. */
  async #addVariants(files: Map<string, OpenFile>, name: string): Promise<void> {
    const { modified } = files.get('identity')!;
    for (const { encoding, suffix } of VARIANTS) {
      const variant = await this.#index.open(name + suffix);
      if (!variant) continue;
      if (variant.modified >= modified) files.set(encoding, variant);
      else await variant.handle.close();
    }
  }

  #nameIn(pathname: string): string | undefined {
    if (!pathname.startsWith(this.#prefix)) return undefined;
    try {
      return decodeURIComponent(pathname.slice(this.#prefix.length));
    } catch {
      return undefined;
    }
  }

  #absolute(name: string): string {
    return this.#baseUrl + this.#prefix + name.split('/').map(encodeURIComponent).join('/');
  }
}

/** The edge's origin from the runtime map; empty without one. */
function baseUrl(): string {
  const { mapFile } = readEnvironment();
  return mapFile ? readRuntimeMap(mapFile).assets.baseUrl.replace(/\/+$/, '') : '';
}
