/**
 * Fingerprinted names: `app.css` with content hash `3f9ab2c1` is asked for as `app-3f9ab2c1.css`. Pure.
 *
 * A name that changes with its content may be kept by browsers and edges for ever. The file on disk
 * keeps its plain name; a bundler's own fingerprinted files are recognised too.
 */
import path from 'node:path';

export const FINGERPRINT_LENGTH = 10;

const OURS = new RegExp(`^(.+)-([0-9a-f]{${FINGERPRINT_LENGTH}})(\\.[^.]*)?$`, 's');

/** `name-Bx3kD92a.js`, `name.8f3e2a1c.css`, `name.8f3e2a1c.js.map`: what may be a bundler's hash. */
const BUNDLED =
  /[-.]([A-Za-z0-9_]{8,64})\.(?:m?js|css|map|woff2?|png|jpe?g|webp|avif|gif|svg|wasm)(?:\.map)?$/;

/**
 * How often letters, capitals and digits have to take turns in what passes for a hash. Words, dates,
 * versions and names such as `iPhone15` stay below. A hash that is not recognised costs a 304; a word
 * that is taken for one would be kept by browsers for a year.
 */
const TURNS_IN_HEX = 3;
const TURNS_IN_BASE64 = 4;
/** Vite, Rollup, esbuild. */
const BASE64_LENGTH = 8;

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
  const part = BUNDLED.exec(path.posix.basename(name))?.[1];
  return part !== undefined && isHash(part);
}

function isHash(text: string): boolean {
  const turns = turnsIn(text);
  if (/^[0-9a-f]+$/.test(text)) return turns >= TURNS_IN_HEX;
  return text.length === BASE64_LENGTH && turns >= TURNS_IN_BASE64;
}

function turnsIn(text: string): number {
  const kinds = [...text].map(character =>
    /[a-z]/.test(character)
      ? 'a'
      : /[A-Z]/.test(character)
        ? 'A'
        : /\d/.test(character)
          ? '0'
          : '_',
  );
  return kinds.filter((kind, i) => i > 0 && kind !== kinds[i - 1]).length;
}
