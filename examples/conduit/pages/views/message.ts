/** A page that says what went wrong and where to go. */
import { html } from 'hono/html';
import type { Html } from './html.ts';

export function messageView(status: number, title: string, text: string): Html {
  return html`<div class="narrow message">
    <p class="status" aria-hidden="true">${status}</p>
    <h1>${title}</h1>
    <p>${text}</p>
    <p><a class="button" href="/">Go to the front page</a></p>
  </div>`;
}
