/** One's own account: profile, picture, password, logging out. */
import { html } from 'hono/html';
import type { User } from '../../db/users.ts';
import { EMPTY_FORM, type FormState, field } from './form.ts';
import { type Html, picture } from './html.ts';

/** @param avatarProblem why an uploaded picture was not taken */
export function settingsView(viewer: User, form: FormState, avatarProblem?: string): Html {
  const upload: FormState = avatarProblem
    ? { values: {}, errors: { avatar: [avatarProblem] } }
    : EMPTY_FORM;
  return html`<div class="narrow">
    <h1>Settings</h1>
    <section class="card form" aria-labelledby="picture">
      <h2 id="picture">Picture</h2>
      <form class="picture" method="post" action="/settings/avatar" enctype="multipart/form-data">
        ${picture(viewer, 'large')}
        <div>
          ${field(upload, { name: 'avatar', label: 'Upload a picture', type: 'file', accept: 'image/png,image/jpeg,image/webp,image/gif', required: true, hint: 'PNG, JPEG, WebP or GIF, at most 1 MB.' })}
          <button class="button quiet">Upload</button>
        </div>
      </form>
    </section>
    <section class="card form" aria-labelledby="profile">
      <h2 id="profile">Profile</h2>
      <form method="post" action="/settings">
        ${field(form, { name: 'username', label: 'Username', autocomplete: 'username', required: true, maxLength: 40 })}
        ${field(form, { name: 'bio', label: 'Bio', rows: 4, maxLength: 1_000, placeholder: 'A few words about you' })}
        ${field(form, { name: 'image', label: 'Picture’s address', hint: 'Instead of an upload: a picture somewhere on the web. Empty for none.' })}
        ${field(form, { name: 'email', label: 'Email', type: 'email', autocomplete: 'email', required: true })}
        ${field(form, { name: 'password', label: 'New password', type: 'password', autocomplete: 'new-password', hint: 'Empty to keep the one you have. A new one logs you out everywhere else.' })}
        <button class="button">Save</button>
      </form>
    </section>
    <form class="leave" method="post" action="/logout">
      <button class="button danger">Log out</button>
    </form>
  </div>`;
}
