/** Signing up and logging in. */
import { html } from 'hono/html';
import { type FormState, field, formProblem } from './form.ts';
import type { Html } from './html.ts';

/** @param next where to go afterwards */
export function loginView(form: FormState, next: string): Html {
  const problem = form.errors.credentials
    ? 'The email address or the password is wrong.'
    : undefined;
  return card(
    'Welcome back',
    html`${formProblem(problem)}
    <form method="post" action="/login">
      <input type="hidden" name="next" value="${next}">
      ${field(form, { name: 'email', label: 'Email', type: 'email', autocomplete: 'email', required: true })}
      ${field(form, { name: 'password', label: 'Password', type: 'password', autocomplete: 'current-password', required: true })}
      <button class="button wide-button">Log in</button>
    </form>`,
    html`New here? <a href="/register">Sign up</a>`,
  );
}

export function registerView(form: FormState): Html {
  return card(
    'Join Conduit',
    html`<form method="post" action="/register">
      ${field(form, { name: 'username', label: 'Username', autocomplete: 'username', required: true, maxLength: 40, hint: 'Letters, digits, dots, hyphens and underscores.' })}
      ${field(form, { name: 'email', label: 'Email', type: 'email', autocomplete: 'email', required: true, hint: 'To log in with. Nobody else sees it.' })}
      ${field(form, { name: 'password', label: 'Password', type: 'password', autocomplete: 'new-password', required: true, hint: 'At least 8 characters.' })}
      <button class="button wide-button">Sign up</button>
    </form>`,
    html`Have an account? <a href="/login">Log in</a>`,
  );
}

function card(title: string, body: Html, footnote: Html): Html {
  return html`<div class="narrow">
    <div class="card form">
      <h1>${title}</h1>
      ${body}
    </div>
    <p class="footnote">${footnote}</p>
  </div>`;
}
