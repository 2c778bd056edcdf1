/** A person's journey through the pages, which are read through the cache, in a real browser whose scripts are on and never needed. */
// biome-ignore-all lint/performance/useDomNodeTextContent: what people see
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { deployExample, type Site } from '../../../test/support/deployment.ts';
import { Api } from './support/api.ts';
import { openBrowser, Person } from './support/browser.ts';

let site: Site;
let browser: Browser;
/** Writes. */
let ann: Person;
/** Reads. */
let ben: Person;

beforeAll(async () => {
  [site, browser] = await Promise.all([deployExample('conduit', { cache: true }), openBrowser()]);
  ann = await Person.at(browser, site.address);
  ben = await Person.at(browser, site.address);
});
afterAll(async () => {
  await browser?.close();
  await site?.remove();
});

const ARTICLE = `# A heading

Some **bold** text, a [link](https://example.com) and a [trap](javascript:alert(1)).

<script>alert('script')</script>
<img src="https://example.com/none.png" onerror="alert('onerror')">
<a href="javascript:alert('href')">raw trap</a>
<iframe src="/"></iframe><svg onload="alert('svg')"></svg>
<style>body { display: none }</style>
<form action="/logout" method="post"><button>Win</button></form>

- one
- two
`;

describe('a journey', () => {
  test('signing up leads to the front page, with a welcome that is shown once', async () => {
    await ann.visit('/');
    await ann.follow('Sign up');
    await ann.submit(
      { Username: 'ann', Email: 'ann@example.com', Password: 'correct horse' },
      'Sign up',
    );
    expect(ann.path).toBe('/');
    expect(await ann.text()).toContain('Welcome, ann!');
    await ann.visit('/');
    expect(await ann.text()).not.toContain('Welcome, ann!');
  });

  test('what is wrong is said beside the field, and what was typed stays', async () => {
    await ben.visit('/register');
    await ben.submit(
      { Username: 'ANN', Email: 'ben@example.com', Password: 'correct horse' },
      'Sign up',
    );
    const { page } = ben;
    expect(await page.locator('#username-problem').innerText()).toBe(
      'Username has already been taken.',
    );
    expect(await page.getByLabel('Username').getAttribute('aria-describedby')).toContain(
      'username-problem',
    );
    expect(await page.getByLabel('Email').inputValue()).toBe('ben@example.com');
    expect(await page.getByLabel('Password').inputValue()).toBe('');
    await ben.submit({ Username: 'ben', Password: 'correct horse' }, 'Sign up');
    expect(await ben.text()).toContain('Welcome, ben!');
  });

  test('an article is written in Markdown, and nothing in it runs', async () => {
    await ann.follow('Write');
    await ann.submit(
      {
        Title: 'First <b>steps</b>',
        Summary: 'About & around',
        Text: ARTICLE,
        Tags: 'Life, trees, Life',
      },
      'Publish',
    );
    const { page } = ann;
    expect(ann.path).toBe('/article/first-b-steps-b');
    expect(await page.locator('h1').innerText()).toBe('First <b>steps</b>');
    const prose = page.locator('.prose');
    expect(await prose.locator('h2').innerText()).toBe('A heading');
    expect(await prose.locator('strong').innerText()).toBe('bold');
    expect(await prose.getByRole('link', { name: 'link' }).getAttribute('rel')).toContain(
      'nofollow',
    );
    expect(await prose.locator('li').allInnerTexts()).toEqual(['one', 'two']);
    expect(await prose.locator('script, iframe, svg, style, form, button, [onerror]').count()).toBe(
      0,
    );
    expect(await prose.locator('[href^="javascript:"]').count()).toBe(0);
    expect(await page.locator('article .tags').innerText()).toBe('Life\ntrees');
    expect(ann.complaints).toEqual([]);
  });

  test('another reads it, follows, comments and likes it', async () => {
    await ben.visit('/');
    await ben.follow('First <b>steps</b>');
    await ben.press('Follow ann');
    expect(await ben.page.getByRole('button', { name: 'Unfollow ann' }).count()).toBe(1);
    await ben.press(/^Favourite this article/);
    const unfavourite = ben.page.getByRole('button', { name: 'Unfavourite this article (1)' });
    expect(await unfavourite.count()).toBe(1);
    await ben.submit({ 'Your comment': 'Nice <script>alert(1)</script>\nwork' }, 'Post comment');
    expect(ben.page.url()).toContain('#comment-');
    expect(await ben.page.locator('.comments .text').innerText()).toBe(
      'Nice <script>alert(1)</script>\nwork',
    );
    expect(ben.complaints).toEqual([]);
  });

  test('the article is in the follower’s feed, under its tag and among the favourites', async () => {
    for (const path of ['/feed', '/tag/Life', '/profile/ben/favorites', '/profile/ann']) {
      await ben.visit(path);
      expect([path, await ben.page.locator('.preview h2').allInnerTexts()]).toEqual([
        path,
        ['First <b>steps</b>'],
      ]);
    }
    expect(await ben.text()).toMatch(/1 article\s+1 follower\s+0 following/);
    await ann.visit('/feed');
    expect(await ann.text()).toContain('follow people');
  });

  test('the heart in a list goes back to that list', async () => {
    await ben.visit('/tag/Life');
    await ben.press(/^Unfavourite/);
    expect(ben.path).toBe('/tag/Life');
    expect(await ben.page.getByRole('button', { name: /^Favourite “First/ }).innerText()).toBe(
      '♡ 0',
    );
  });

  test('the author changes it; blank fields are refused with the text kept', async () => {
    await ann.visit('/article/first-b-steps-b');
    await ann.follow('Edit');
    expect(await ann.page.getByLabel('Text').inputValue()).toBe(ARTICLE);
    await ann.submit({ Title: '   ', Summary: 'Changed' }, 'Save');
    expect(await ann.text()).toContain("Title can't be blank.");
    expect(await ann.page.getByLabel('Summary').inputValue()).toBe('Changed');
    await ann.submit({ Title: 'Second steps', Tags: 'trees' }, 'Save');
    expect(ann.path).toBe('/article/second-steps');
    expect(await ann.page.locator('article .tags').innerText()).toBe('trees');
  });

  test('only the author may edit it, and only the writer delete a comment', async () => {
    await ben.visit('/editor/second-steps');
    expect(await ben.text()).toContain('That is not yours to do');
    await ann.visit('/article/second-steps');
    expect(await ann.page.getByRole('button', { name: 'Delete this comment' }).count()).toBe(0);
    await ben.visit('/article/second-steps');
    await ben.press('Delete this comment');
    expect(await ben.page.locator('.comments li').count()).toBe(0);
  });

  test('the profile changes in the settings', async () => {
    await ann.follow('Settings');
    await ann.submit({ Bio: 'Plants & patience', Email: 'none' }, 'Save');
    // The browser itself refuses that address; nothing was sent.
    expect(ann.path).toBe('/settings');
    await ann.submit({ Username: 'annika', Email: 'annika@example.com' }, 'Save');
    expect(ann.path).toBe('/profile/annika');
    expect(await ann.text()).toContain('Plants & patience');
    expect(await ann.text()).toContain('Your settings are saved.');
  });

  test('an uploaded picture is shown; what is none is refused', async () => {
    const picture = path.join(site.folder, 'picture.png');
    await writeFile(picture, PNG);
    const notOne = path.join(site.folder, 'fake.png');
    await writeFile(notOne, '<svg onload="alert(1)"/>');
    const tooLarge = path.join(site.folder, 'large.png');
    await writeFile(tooLarge, Buffer.concat([PNG, Buffer.alloc(1_100_000)]));

    const upload = async (file: string) => {
      await ann.visit('/settings');
      await ann.page.getByLabel('Upload a picture').setInputFiles(file);
      await ann.press('Upload');
      return ann.text();
    };
    expect(await upload(notOne)).toContain('must be a PNG, JPEG, WebP or GIF');
    expect(await upload(tooLarge)).toContain('is too large');
    expect(await upload(picture)).toContain('Your picture is changed.');

    const image = ann.page.locator('img.avatar.large');
    expect(
      await image.evaluate(
        element => (element as unknown as { naturalWidth: number }).naturalWidth,
      ),
    ).toBe(1);
    const address = await image.getAttribute('src');
    const response = await fetch(site.address + address);
    expect(response.headers.get('content-type')).toBe('image/png');
    expect(response.headers.get('cache-control')).toContain('immutable');
    expect(response.headers.get('set-cookie')).toBeNull();
    expect(Buffer.from(await response.arrayBuffer())).toEqual(PNG);
    const { body } = await new Api(site.address).call('GET /profiles/annika');
    expect(body.profile.image).toBe(site.address + address);
    const headers = { 'if-none-match': response.headers.get('etag')! };
    expect((await fetch(site.address + address, { headers })).status).toBe(304);
  });

  test('one logs out, and in again with the right password', async () => {
    await ann.visit('/settings');
    await ann.press('Log out');
    await ann.visit('/settings');
    expect(ann.path).toBe('/login?next=%2Fsettings');
    await ann.submit({ Email: 'annika@example.com', Password: 'wrong horse' }, 'Log in');
    expect(await ann.page.getByRole('alert').innerText()).toBe(
      'The email address or the password is wrong.',
    );
    expect(await ann.page.getByLabel('Email').inputValue()).toBe('annika@example.com');
    await ann.submit({ Password: 'correct horse' }, 'Log in');
    expect(ann.path).toBe('/settings');
  });

  test('a new password logs one out everywhere else', async () => {
    const elsewhere = await Person.at(browser, site.address);
    await elsewhere.visit('/login');
    await elsewhere.submit({ Email: 'annika@example.com', Password: 'correct horse' }, 'Log in');
    await ann.submit({ 'New password': 'battery staple' }, 'Save');
    expect(ann.path).toBe('/profile/annika');
    await ann.visit('/settings');
    expect(ann.path).toBe('/settings');
    await elsewhere.visit('/settings');
    expect(elsewhere.path).toContain('/login');
  });

  test('an article is deleted after a second look', async () => {
    await ann.visit('/article/second-steps');
    const forGood = ann.page.getByRole('button', { name: 'Delete for good' });
    expect(await forGood.isVisible()).toBe(false);
    await ann.page.getByText('Delete', { exact: true }).click();
    await ann.press('Delete for good');
    expect(await ann.text()).toContain('The article is deleted.');
    await ann.visit('/article/second-steps');
    expect(await ann.page.locator('h1').innerText()).toBe('There is nothing here');
  });
});

describe('lists', () => {
  test('older articles are on further pages', async () => {
    const writer = await Person.at(browser, site.address);
    await writer.signUp('writer');
    for (let count = 1; count <= 12; count++) {
      await writer.visit('/editor');
      await writer.submit({ Title: `Number ${count}`, Summary: 's', Text: 't' }, 'Publish');
    }
    await writer.visit('/');
    expect(await writer.page.locator('.preview').count()).toBe(10);
    await writer.follow('Older →');
    expect(writer.path).toBe('/?page=2');
    expect(await writer.page.locator('.preview h2').allInnerTexts()).toEqual([
      'Number 2',
      'Number 1',
    ]);
    await writer.press(/^Favourite “Number 1”/);
    expect(writer.path).toBe('/?page=2');
  });
});

describe('without an account, or a script', () => {
  test('everything can be read, and doing something leads to the login', async () => {
    const guest = await Person.at(browser, site.address, { javaScriptEnabled: false });
    for (const path of ['/', '/article/number-1', '/profile/writer', '/tag/trees', '/login']) {
      await guest.visit(path);
      expect([path, await guest.page.locator('h1').count()]).toEqual([path, 1]);
    }
    await guest.visit('/article/number-1');
    await guest.press(/^Favourite/);
    expect(guest.path).toBe('/login?next=%2Farticle%2Fnumber-1');
    await guest.visit('/feed');
    expect(guest.path).toBe('/login?next=%2Ffeed');
    expect(await guest.page.context().cookies()).toEqual([]);
  });

  test('an account is made and used without any script', async () => {
    const person = await Person.at(browser, site.address, { javaScriptEnabled: false });
    await person.signUp('scriptless');
    await person.visit('/editor');
    await person.submit({ Title: 'No script', Summary: 's', Text: '*works*' }, 'Publish');
    expect(await person.page.locator('.prose em').innerText()).toBe('works');
  });
});

describe('every page', () => {
  const PAGES = ['/', '/feed', '/editor', '/settings', '/profile/annika', '/article/number-1'];

  test.each([...PAGES, '/login', '/register', '/nothing'])(
    '%s can be used by everyone',
    async path => {
      const person =
        path === '/login' || path === '/register' ? await Person.at(browser, site.address) : ann;
      await person.visit(path);
      const { page } = person;
      expect(await page.locator('h1').count()).toBe(1);
      expect(await page.locator('main, header, footer').count()).toBeGreaterThanOrEqual(3);
      const unlabelled = await page
        .locator('input:not([type=hidden], [type=checkbox]), textarea')
        .evaluateAll(fields =>
          fields
            .filter(field => (field as unknown as { labels?: unknown[] }).labels?.length === 0)
            .map(field => field.outerHTML),
        );
      expect(unlabelled).toEqual([]);
      const nameless = await page.locator('button, a, summary').evaluateAll(elements =>
        elements
          .filter(element => !element.closest('[aria-hidden]'))
          .filter(element => !(element.textContent?.trim() || element.getAttribute('aria-label')))
          .map(element => element.outerHTML),
      );
      expect(nameless).toEqual([]);
      const ids = await page.locator('[id]').evaluateAll(elements => elements.map(({ id }) => id));
      expect(ids).toEqual([...new Set(ids)]);
      await page.setViewportSize({ width: 360, height: 700 });
      const overflow = await page.evaluate(
        'document.documentElement.scrollWidth - document.documentElement.clientWidth',
      );
      expect(overflow).toBe(0);
      await page.setViewportSize({ width: 1200, height: 850 });
      expect(person.complaints).toEqual([]);
    },
  );

  test('may run no script, and loads nothing of ours from elsewhere', async () => {
    const response = await fetch(site.address);
    const policy = response.headers.get('content-security-policy');
    expect(policy).toContain("script-src 'none'");
    expect(policy).toContain("default-src 'self'");
    expect(response.headers.get('x-content-type-options')).toBe('nosniff');
    const page = await response.text();
    const stylesheet = /href="([^"]+\.css)"/.exec(page)?.[1];
    const css = await fetch(site.address + stylesheet);
    expect(css.headers.get('cache-control')).toContain('immutable');
  });

  test('when the database fails, a page says so and tells nothing of its insides', async () => {
    const pool = site.pool({ max: 1 });
    await pool.query('alter table articles rename to away');
    try {
      // Of an article that nobody has asked for: what was asked for may be in the cache, and is shown.
      const response = await fetch(`${site.address}/article/never-asked-for`);
      expect(response.status).toBe(500);
      const page = await response.text();
      expect(page).toContain('Something went wrong on our side');
      expect(page).not.toMatch(/select|relation|articles/);
    } finally {
      await pool.query('alter table away rename to articles');
    }
    expect((await fetch(site.address)).status).toBe(200);
  });

  test('a form of another site does nothing', async () => {
    const { cookies } = { cookies: await ann.page.context().cookies() };
    const cookie = cookies.map(({ name, value }) => `${name}=${value}`).join('; ');
    expect(cookies[0]).toMatchObject({ httpOnly: true, sameSite: 'Lax' });
    const post = (headers: Record<string, string>) =>
      fetch(`${site.address}/logout`, {
        method: 'POST',
        redirect: 'manual',
        headers: { cookie, ...headers },
      });
    expect((await post({ origin: 'https://evil.example' })).status).toBe(403);
    expect((await post({})).status).toBe(403);
    await ann.visit('/settings');
    expect(ann.path).toBe('/settings');
    // Behind a balancer that ends TLS the origin is https, and still ours.
    const origin = site.address.replace('http:', 'https:');
    expect((await post({ origin })).status).toBe(303);
  });

  test('the login leads only to paths of this site', async () => {
    for (const next of ['https://evil.example', '//evil.example', '/\\evil.example']) {
      const person = await Person.at(browser, site.address);
      await person.visit(`/login?next=${encodeURIComponent(next)}`);
      await person.submit({ Email: 'ben@example.com', Password: 'correct horse' }, 'Log in');
      expect(person.path).toBe('/');
      expect(new URL(person.page.url()).origin).toBe(site.address);
    }
  });
});

/** One pixel. */
const PNG = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==',
  'base64',
);
