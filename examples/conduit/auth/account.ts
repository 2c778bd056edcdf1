/** Accounts, for the API and the pages alike. */
import {
  createUser,
  findUserByEmail,
  type NewUser,
  type User,
  type UserChanges,
  updateUser,
} from '../db/users.ts';
import { notFound, unauthorized } from '../problem.ts';
import type { Services } from '../services.ts';
import { hashPassword, isPassword } from './password.ts';

export interface Registration extends Omit<NewUser, 'passwordHash'> {
  password: string;
}

export interface AccountChanges extends Omit<UserChanges, 'passwordHash'> {
  password?: string | undefined;
}

/** @throws Problem 422 when the name or the address is taken */
export async function signUp(
  services: Services,
  { username, email, password }: Registration,
): Promise<User> {
  return createUser(services, { username, email, passwordHash: await hashPassword(password) });
}

/** @throws Problem 401, the same for a wrong password and an unknown address */
export async function logIn(
  { db }: Services,
  { email, password }: Pick<Registration, 'email' | 'password'>,
): Promise<User> {
  const user = await findUserByEmail(db, email);
  const isRight = await isPassword(password, user?.passwordHash);
  if (!user || !isRight) throw unauthorized({ credentials: ['invalid'] });
  return user;
}

/** A new password ends every session and token of before. */
export async function changeAccount(
  { db, sessions }: Services,
  user: User,
  { password, ...changes }: AccountChanges,
): Promise<User> {
  const passwordHash = password === undefined ? undefined : await hashPassword(password);
  const changed = await updateUser(db, user.id, { ...changes, passwordHash });
  if (!changed) throw notFound('user');
  if (passwordHash) await sessions.revoke(user.id);
  return changed;
}
