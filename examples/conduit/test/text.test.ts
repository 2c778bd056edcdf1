/** Slugs, Markdown, images, errors: what needs no server. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { sniffImage } from '../images/sniff.ts';
import { localPath } from '../pages/views/html.ts';
import { invalid } from '../problem.ts';
import { renderMarkdown } from '../text/markdown.ts';
import { slugCandidates, slugOf } from '../text/slug.ts';

describe('slugs', () => {
  test.each([
    ['Hello, World!', 'hello-world'],
    ['  Crème brûlée — twice  ', 'creme-brulee-twice'],
    ["Don't panic", 'dont-panic'],
    ['日本語のタイトル', '日本語のタイトル'],
    ['C++ & C#', 'c-c'],
    ['!!!', 'article'],
  ])('%s → %s', (title, slug) => expect(slugOf(title)).toBe(slug));

  test('whatever the title, a slug is short, of letters, digits and single hyphens, and its own slug', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 300 }), title => {
        const slug = slugOf(title);
        expect(slug).toMatch(/^[\p{L}\p{N}]+(-[\p{L}\p{N}]+)*$/u);
        expect([...slug].length).toBeLessThanOrEqual(80);
      }),
      { numRuns: 2_000 },
    );
  });

  test('after the plain one come others that all differ', () => {
    const candidates = [...slugCandidates('Same')];
    expect(candidates[0]).toBe('same');
    expect(new Set(candidates).size).toBe(candidates.length);
    expect(candidates.slice(1)).toEqual(
      candidates.slice(1).map(() => expect.stringMatching(/^same-\w{6}$/)),
    );
  });
});

describe('Markdown', () => {
  test.each([
    '<script>alert(1)</script>',
    '<img src=x onerror=alert(1)>',
    '<a href="javascript:alert(1)">x</a>',
    '[x](javascript:alert(1))',
    '[x](data:text/html;base64,PHNjcmlwdD4=)',
    '![x](data:image/svg+xml;base64,PHN2Zz4=)',
    '<a href="java&#x0A;script:alert(1)">x</a>',
    '<svg><script>alert(1)</script></svg>',
    '<math><mi xlink:href="javascript:alert(1)">x</mi></math>',
    '<iframe srcdoc="<script>alert(1)</script>"></iframe>',
    '<p style="background:url(javascript:alert(1))">x</p>',
    '<input type="text" name="password">',
    '<form action="/logout"><button formaction="/x">x</button></form>',
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    '<base href="https://evil.example">',
    '```html" onmouseover="alert(1)\nx\n```',
    '<p id="content" class="avatar" name="x">x</p>',
  ])('%s does no harm', async text => {
    const html = await renderMarkdown(text);
    expect(html).not.toMatch(/<(script|iframe|svg|math|style|form|button|base|noscript|object)/i);
    expect(html).not.toMatch(/<[^>]+\s(on\w+|style|id|name|class="avatar)/i);
    expect(html).not.toMatch(/(href|src)="\s*(javascript|data|vbscript):/i);
    expect(html).not.toContain('<input');
  });

  test('what people write comes out as they mean it', async () => {
    const html = await renderMarkdown(
      '# Top\n\n~~old~~ `code`\n\n```ts\nlet x = 1 < 2;\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n1. x\n\nhttps://example.com',
    );
    expect(html).toContain('<h2>Top</h2>');
    expect(html).toContain('<s>old</s> <code>code</code>');
    expect(html).toContain('<code class="language-ts">let x = 1 &lt; 2;');
    expect(html).toContain('<td>2</td>');
    expect(html).toContain('<a href="https://example.com" rel="nofollow ugc noopener">');
  });

  test.each([
    '*a_',
    '>',
    '[',
    '![',
    '[[a]',
    '**',
    '_a __b ',
    '<div>',
    '<!--',
    '|a\n|-\n',
    '* a\n  ',
    '`a``b',
  ])('an article full of %j holds nobody up', async piece => {
    const text = piece.repeat(100_000 / piece.length);
    // What it computes, not what it waits: the machine may be busy. In microseconds.
    const before = process.cpuUsage();
    await renderMarkdown(text);
    expect(process.cpuUsage(before).user).toBeLessThan(3_000_000);
  });
});

describe('images', () => {
  test.each([
    ['89504e470d0a1a0a0000', 'image/png'],
    ['ffd8ffe000104a464946', 'image/jpeg'],
    ['474946383961', 'image/gif'],
    ['52494646aabbccdd57454250', 'image/webp'],
  ])('%s is %s', (hex, type) => expect(sniffImage(Buffer.from(hex, 'hex'))?.type).toBe(type));

  test.each(['', '<svg/>', '<html>', '%PDF-1.7', 'RIFF....WAVE', 'GIF'])('%s is none', text =>
    expect(sniffImage(Buffer.from(text))).toBeUndefined(),
  );
});

describe('errors', () => {
  test('sentences stand in `body`, unless that is a field of its own', () => {
    expect(invalid({ title: ['is bad'] }).toJSON()).toEqual({
      errors: { title: ['is bad'], body: ['title is bad'] },
    });
    expect(invalid({ title: ['is bad'], body: ['is worse'] }).toJSON()).toEqual({
      errors: { title: ['is bad'], body: ['is worse'] },
    });
  });
});

test('the way back after a form never leaves the site', () => {
  for (const path of ['/', '/article/x?page=2#comments', '/profile/%C3%A4']) {
    expect(localPath(path)).toBe(path);
  }
  fc.assert(
    fc.property(
      fc.string({ unit: 'binary' }),
      fc.constantFrom('', '/', '//', '/\\', '/\t/'),
      (text, start) => {
        const url = new URL(localPath(start + text), 'https://conduit.example');
        expect(url.origin).toBe('https://conduit.example');
      },
    ),
  );
});
