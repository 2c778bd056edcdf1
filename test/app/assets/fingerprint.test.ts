import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  addFingerprint,
  FINGERPRINT_LENGTH,
  isBundled,
  splitFingerprint,
} from '../../../src/app/assets/fingerprint.ts';

const fingerprint = fc.string({
  unit: fc.constantFrom(...'0123456789abcdef'),
  minLength: FINGERPRINT_LENGTH,
  maxLength: FINGERPRINT_LENGTH,
});

/** Any name that a file may have. */
const part = fc
  .string({ unit: 'grapheme', minLength: 1 })
  .filter(text => !text.includes('/') && !text.startsWith('.') && !text.includes('\0'));
const name = fc.array(part, { minLength: 1, maxLength: 3 }).map(parts => parts.join('/'));

describe('fingerprints', () => {
  test('property: what was added is split off again, whatever the name', () => {
    fc.assert(
      fc.property(name, fingerprint, (plain, hash) => {
        expect(splitFingerprint(addFingerprint(plain, hash))).toEqual({
          name: plain,
          fingerprint: hash,
        });
      }),
    );
  });

  test('stand before the last extension', () => {
    expect(addFingerprint('css/app.min.css', '3f9ab2c1d0')).toBe('css/app.min-3f9ab2c1d0.css');
    expect(addFingerprint('LICENSE', '3f9ab2c1d0')).toBe('LICENSE-3f9ab2c1d0');
  });

  test('a name without one is left alone', () => {
    for (const plain of ['app.css', 'app-3f9ab2c1d.css', 'app-3F9AB2C1D0.css', '-3f9ab2c1d0.css']) {
      expect(splitFingerprint(plain)).toBeUndefined();
    }
  });
});

describe("bundlers' hashes", () => {
  test.each([
    'assets/index-Bx3kD92a.js', // Vite
    'chunk-A5B2XK7Q.js', // esbuild
    'main.8f3e2a1c9b7d6e5f4a3b.js', // webpack
    'app.8f3e2a1c.css', // Parcel
    'main-8f3e2a1c.js.map',
  ])('%s', file => expect(isBundled(file)).toBe(true));

  test.each([
    'photo-20240101.jpg',
    'report-2024-final.png',
    'header-background2.png',
    'font-Awesome5.css',
    'photo-iPhone15.jpg',
    'jquery-3.7.1.min.js',
    'bootstrap.bundle.min.js',
    'release-version12.js',
    'IMG_20240101_120000.jpg',
    'component-library.js',
    'a-deadbeef.css',
    'app.css',
    'index-Bx3kD92a.html',
  ])('not %s, which somebody may change', file => expect(isBundled(file)).toBe(false));

  test('property: a word with a number behind it is never taken for one', () => {
    const word = fc.stringMatching(/^[A-Z]?[a-z]{3,12}[0-9]{0,8}$/);
    fc.assert(
      fc.property(word, text => {
        expect(isBundled(`x-${text}.png`)).toBe(false);
      }),
    );
  });
});
