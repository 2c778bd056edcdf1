/** Signing up, logging in and out. */
import { Hono } from 'hono';
import { logIn, signUp } from '../auth/account.ts';
import { credentials, registration } from '../input/schemas.ts';
import { validate } from '../input/validate.ts';
import type { PageEnv, Services } from '../services.ts';
import { type Render, readForm, rejectedForm } from './page.ts';
import { loginView, registerView } from './views/account.ts';
import { EMPTY_FORM } from './views/form.ts';
import { localPath } from './views/html.ts';

export function accountPages(services: Services, render: Render) {
  return new Hono<PageEnv>()
    .get('/login', c =>
      c.get('viewer')
        ? c.redirect('/')
        : render(c, 'Log in', loginView(EMPTY_FORM, localPath(c.req.query('next')))),
    )
    .post('/login', async c => {
      const { next, ...values } = await readForm(c);
      try {
        const user = await logIn(services, validate(credentials, values));
        c.get('session').login(user.id);
        return c.redirect(localPath(next), 303);
      } catch (error) {
        const form = rejectedForm(error, values);
        const status = form.errors.credentials ? 401 : 422;
        return render(c, 'Log in', loginView(form, localPath(next)), status);
      }
    })
    .get('/register', c =>
      c.get('viewer') ? c.redirect('/') : render(c, 'Sign up', registerView(EMPTY_FORM)),
    )
    .post('/register', async c => {
      const values = await readForm(c);
      try {
        const user = await signUp(services, validate(registration, values));
        c.get('session').login(user.id);
        c.get('session').set(
          'flash',
          `Welcome, ${user.username}! Follow people or write something.`,
        );
        return c.redirect('/', 303);
      } catch (error) {
        return render(c, 'Sign up', registerView(rejectedForm(error, values)), 422);
      }
    })
    .post('/logout', c => {
      c.get('session').logout();
      return c.redirect('/', 303);
    });
}
