/** Greets whoever has signed up. */
import type { JobContext } from 'banyan';
import { findUserById } from '../db/users.ts';
import type { Services } from '../services.ts';

export async function sendWelcome(
  { db, mailer }: Services,
  job: JobContext<{ userId: bigint }>,
): Promise<void> {
  const user = await findUserById(db, job.payload.userId);
  if (!user) throw new Error(`user ${job.payload.userId} is not there`);
  await mailer.send({
    id: job.id,
    to: user.email,
    subject: 'Welcome to Conduit',
    text: `Hello ${user.username},\n\nit is good to have you here. Follow people, or write something.\n`,
  });
}
