/** Headless Chromium, as Debian has it. */
// biome-ignore-all lint/performance/useDomNodeTextContent: what people see
import { existsSync } from 'node:fs';
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core';
import { expect } from 'vitest';

const PATHS = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

export async function openBrowser(): Promise<Browser> {
  const executablePath = process.env.CHROMIUM ?? PATHS.find(existsSync);
  if (!executablePath) {
    throw new Error(
      `There is no Chromium at ${PATHS.join(', ')}: apt-get install -y --no-install-recommends chromium, or set CHROMIUM to its path`,
    );
  }
  return chromium.launch({
    executablePath,
    headless: true,
    args: [
      ...['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'],
      ...['--disable-background-networking', '--disable-component-update', '--disable-sync'],
    ],
  });
}

/** A person at a browser of their own: their cookies, and what their browser complained about. */
export class Person {
  readonly page: Page;
  readonly #address: string;
  readonly complaints: string[] = [];

  private constructor(page: Page, address: string) {
    this.page = page;
    this.#address = address;
    page.on('pageerror', error => this.complaints.push(`script: ${error.message}`));
    page.on('dialog', dialog => {
      this.complaints.push(`dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
  }

  static async at(
    browser: Browser,
    address: string,
    options: BrowserContextOptions = {},
  ): Promise<Person> {
    const context = await browser.newContext(options);
    context.setDefaultTimeout(10_000);
    return new Person(await context.newPage(), address);
  }

  async visit(path: string): Promise<void> {
    await this.page.goto(this.#address + path);
  }

  /** Fills the fields by their labels and presses the button. */
  async submit(fields: Record<string, string>, button: string): Promise<void> {
    for (const [label, value] of Object.entries(fields)) {
      await this.page.getByLabel(label, { exact: true }).fill(value);
    }
    await this.press(button);
  }

  async press(button: string | RegExp): Promise<void> {
    await this.page
      .locator('button')
      .and(this.page.getByRole('button', { name: button }))
      .first()
      .click();
    await this.page.waitForLoadState();
  }

  async follow(link: string | RegExp): Promise<void> {
    await this.page.getByRole('link', { name: link }).first().click();
    await this.page.waitForLoadState();
  }

  get path(): string {
    const { pathname, search } = new URL(this.page.url());
    return pathname + search;
  }

  text(): Promise<string> {
    return this.page.locator('body').innerText();
  }

  async signUp(username: string): Promise<void> {
    await this.visit('/register');
    await this.submit(
      { Username: username, Email: `${username}@example.com`, Password: 'correct horse' },
      'Sign up',
    );
    expect(await this.text()).toContain(`Welcome, ${username}!`);
  }
}
