/** Greets whoever has signed up. */
import type { JobContext } from 'banyan';
import { inTransaction } from '../db/database.ts';
import { findUserById } from '../db/users.ts';
import type { Services } from '../services.ts';

export async function sendWelcome(
  { db, mailer }: Services,
  job: JobContext<{ userId: bigint }>,
): Promise<void> {
  // In a transaction, so at the primary: a replica may not have them yet.
  const user = await inTransaction(db, tx => findUserById(tx, job.payload.userId));
  if (!user) throw new Error(`user ${job.payload.userId} is not there`);
  await mailer.send({
    id: job.id,
    to: user.email,
    subject: 'Welcome to Conduit',
    text: `Hello ${user.username},\n\nit is good to have you here. Follow people, or write something.\n`,
  });
}
