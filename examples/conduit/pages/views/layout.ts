/** What is around every page. */
import type { Assets } from 'banyan';
import { html } from 'hono/html';
import type { User } from '../../db/users.ts';
import { avatar, type Html, nothing, profilePath } from './html.ts';

export interface LayoutOptions {
  assets: Assets;
  title: string;
  /** Of the request: marks where one is in the navigation. */
  path: string;
  viewer: User | undefined;
  flash: string | undefined;
}

export function layout({ assets, title, path, viewer, flash }: LayoutOptions, body: Html): Html {
  return html`<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>${title} — Conduit</title>
  <link rel="stylesheet" href="${assets.url('app.css')}">
  <link rel="icon" href="${assets.url('leaf.svg')}" type="image/svg+xml">
</head>
<body>
  <a class="skip" href="#content">Skip to content</a>
  <header class="top">
    <div class="wide row">
      <a class="brand" href="/"><img src="${assets.url('leaf.svg')}" alt="" width="26" height="26">conduit</a>
      <nav aria-label="Main">${viewer ? memberLinks(path, viewer) : guestLinks(path)}</nav>
    </div>
  </header>
  ${flash ? html`<div class="flash" role="status"><div class="wide">${flash}</div></div>` : nothing}
  <main id="content">${body}</main>
  <footer class="bottom">
    <div class="wide row">
      <span>Conduit, a place to share what you know.</span>
      <span>Grown with Banyan.</span>
    </div>
  </footer>
</body>
</html>`;
}

function memberLinks(path: string, viewer: User): Html {
  const own = profilePath(viewer.username);
  return html`${link(path, '/', 'Home')}
    ${link(path, '/editor', 'Write')}
    ${link(path, '/settings', 'Settings')}
    <a class="me" href="${own}" ${here(path, own)}>${avatar(viewer, 'small')}<span>${viewer.username}</span></a>`;
}

function guestLinks(path: string): Html {
  return html`${link(path, '/', 'Home')}
    ${link(path, '/login', 'Log in')}
    <a class="button" href="/register">Sign up</a>`;
}

function link(path: string, to: string, text: string): Html {
  return html`<a href="${to}" ${here(path, to)}>${text}</a>`;
}

function here(path: string, to: string): Html | '' {
  return path === to ? html`aria-current="page"` : nothing;
}
