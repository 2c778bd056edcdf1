/** Every night: do the tags' counters say how many articles there are? */
import { type JobContext, log } from 'banyan';
import { repairTag, suspectTags } from '../db/tag-counts.ts';
import type { Services } from '../services.ts';

export async function recount({ db }: Services, job: JobContext<unknown>): Promise<void> {
  for (let after: string | undefined = ''; after !== undefined; ) {
    const { suspects, last } = await suspectTags(db, after);
    for (const tag of suspects) {
      job.signal.throwIfAborted();
      const difference = await repairTag(db, tag);
      if (difference !== 0) log.warn({ tag, difference }, 'a tag was counted wrong');
    }
    after = last;
  }
}
