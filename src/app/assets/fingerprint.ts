/**
 * Fingerprinted names: `app.css` with content hash `3f9ab2c1` is asked for as `app-3f9ab2c1.css`. Pure.
 *
 * A name that changes with its content may be kept by browsers and edges for ever. The file on disk
 * keeps its plain name; a bundler's own fingerprinted files are recognised too.
 */
import path from 'node:path';

export const FINGERPRINT_LENGTH = 10;

const OURS = new RegExp(`^(.+)-([0-9a-f]{${FINGERPRINT_LENGTH}})(\\.[^.]+)?$`);

/**
 * `name-Bx3kD92a.js`, `name.8f3e2a1c.css`: what Vite, esbuild, webpack and Rollup write. A hash has a
 * digit in it, which a word in the same place seldom has.
 */
const BUNDLED =
  /[-.](?=[\w-]*\d)[\w-]{8,}\.(?:m?js|css|map|woff2?|png|jpe?g|webp|avif|gif|svg|wasm)$/i;

/** `css/app.css` → `css/app-3f9ab2c1d0.css` */
export function addFingerprint(name: string, fingerprint: string): string {
  const { dir, name: base, ext } = path.posix.parse(name);
  return path.posix.join(dir, `${base}-${fingerprint}${ext}`);
}

/** The reverse; undefined when the name has no fingerprint of our kind. */
export function splitFingerprint(name: string): { name: string; fingerprint: string } | undefined {
  const { dir, base } = path.posix.parse(name);
  const match = OURS.exec(base);
  if (!match) return undefined;
  return { name: path.posix.join(dir, `${match[1]}${match[3] ?? ''}`), fingerprint: match[2]! };
}

/** True for a file whose own name holds a bundler's hash. */
export function isBundled(name: string): boolean {
  return BUNDLED.test(path.posix.basename(name));
}
