/** The small pieces that all views are made of. `html` escapes whatever is put into it. */
import { html } from 'hono/html';

export type Html = ReturnType<typeof html>;

export const nothing = '';

/** How many colours the stylesheet has for people without a picture. */
const HUES = 8;

interface Person {
  username: string;
  image: string;
}

export function avatar(person: Person, size = ''): Html {
  const { image } = person;
  return picture({ ...person, image: image.startsWith('/') ? `${image}/thumbnail` : image }, size);
}

/** As it was uploaded. */
export function picture({ username, image }: Person, size: string): Html {
  if (image) {
    return html`<img class="avatar ${size}" src="${image}" alt="" loading="lazy" decoding="async" referrerpolicy="no-referrer">`;
  }
  const initial = [...username][0]!.toUpperCase();
  return html`<span class="avatar hue-${hueOf(username)} ${size}" aria-hidden="true">${initial}</span>`;
}

export function profilePath(username: string): string {
  return `/profile/${encodeURIComponent(username)}`;
}

export function articlePath(slug: string): string {
  return `/article/${encodeURIComponent(slug)}`;
}

export function tagPath(tag: string): string {
  return `/tag/${encodeURIComponent(tag)}`;
}

const DAY = new Intl.DateTimeFormat('en', { dateStyle: 'medium', timeZone: 'UTC' });

export function day(date: Date): Html {
  return html`<time datetime="${date.toISOString()}">${DAY.format(date)}</time>`;
}

const NUMBER = new Intl.NumberFormat('en');

export function count(number: number, one: string, many = `${one}s`): string {
  return `${NUMBER.format(number)} ${number === 1 ? one : many}`;
}

const COMPACT = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

/** 12,345 → 12.3K */
export function compact(number: number): string {
  return COMPACT.format(number);
}

/** Where to go back to after a form: a path of this site, whatever was sent. */
export function localPath(path: unknown, fallback = '/'): string {
  return typeof path === 'string' && /^\/(?![/\\])[^\s\\]*$/.test(path) ? path : fallback;
}

/** FNV-1a: the same person has the same colour on every server. */
function hueOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let at = 0; at < text.length; at++) {
    hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  }
  return (hash >>> 0) % HUES;
}
