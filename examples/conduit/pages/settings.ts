/** One's own account, and uploading a picture. */
import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { changeAccount } from '../auth/account.ts';
import { storeAvatar } from '../db/avatars.ts';
import type { User } from '../db/users.ts';
import { sniffImage } from '../images/sniff.ts';
import { userChanges } from '../input/schemas.ts';
import { validate } from '../input/validate.ts';
import type { PageEnv, Services } from '../services.ts';
import { memberOf, type PageContext, type Render, readForm, rejectedForm } from './page.ts';
import { EMPTY_FORM, type FormState } from './views/form.ts';
import { profilePath } from './views/html.ts';
import { settingsView } from './views/settings.ts';

const IMAGE_LIMIT_BYTES = 1024 * 1024;

/** What the form's encoding adds to the image. */
const FORM_BYTES = 16 * 1024;

const TOO_LARGE = 'is too large (maximum is 1 MB)';

export function settingsPages(services: Services, render: Render) {
  const refuseAvatar = (c: PageContext, problem: string, status: 413 | 422) => {
    const viewer = memberOf(c);
    return render(c, 'Settings', settingsView(viewer, formOf(viewer), problem), status);
  };

  return new Hono<PageEnv>()
    .get('/settings', c => {
      const viewer = memberOf(c);
      return render(c, 'Settings', settingsView(viewer, formOf(viewer)));
    })
    .post('/settings', async c => {
      const viewer = memberOf(c);
      const { password, ...values } = await readForm(c);
      try {
        const changes = validate(userChanges, { ...values, password: password || undefined });
        const user = await changeAccount(services, viewer, changes);
        // A new password ended this session too; the one who changed it stays.
        if (changes.password !== undefined) c.get('session').login(user.id);
        c.get('session').set('flash', 'Your settings are saved.');
        return c.redirect(profilePath(user.username), 303);
      } catch (error) {
        return render(c, 'Settings', settingsView(viewer, rejectedForm(error, values)), 422);
      }
    })
    .post(
      '/settings/avatar',
      bodyLimit({
        maxSize: IMAGE_LIMIT_BYTES + FORM_BYTES,
        onError: c => refuseAvatar(c as unknown as PageContext, TOO_LARGE, 413),
      }),
      async c => {
        const viewer = memberOf(c);
        const { avatar } = await c.req.parseBody();
        if (!(avatar instanceof File) || avatar.size === 0) {
          return refuseAvatar(c, 'needs a file', 422);
        }
        if (avatar.size > IMAGE_LIMIT_BYTES) return refuseAvatar(c, TOO_LARGE, 413);
        const bytes = Buffer.from(await avatar.arrayBuffer());
        const format = sniffImage(bytes);
        if (!format) return refuseAvatar(c, 'must be a PNG, JPEG, WebP or GIF', 422);
        await storeAvatar(services, viewer.id, bytes, format);
        c.get('session').set('flash', 'Your picture is changed.');
        return c.redirect('/settings', 303);
      },
    );
}

function formOf({ username, bio, image, email }: User): FormState {
  return { ...EMPTY_FORM, values: { username, bio, image, email } };
}
