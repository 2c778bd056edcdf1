/**
 * From what runs to what should run: the steps for the workers. Pure.
 *
 * Holds true of every plan:
 * - While workers are replaced there are never fewer of them than before or than there shall be, whichever is less, and
 *   never more than one above.
 * - Carried out to the end, a plan of the same desire has no steps.
 *
 * Nothing is lost or done twice by a plan, whatever its steps: that is the queue's promise, by leases (app/queue/README.md).
 * A worker that leaves finishes what it has in hand, or hands it back.
 */
import { byNumber, UnitNames } from '../unit-names.ts';

export interface DesiredWorkers {
  release: number;
  /** Of the workers' settings. */
  revision: string;
  servers: number;
  /** Whether the autoscaler watches over their number. */
  autoscaled: boolean;
}

export interface ObservedWorker {
  name: string;
  release: number;
  revision: string;
}

export interface ObservedWorkers {
  workers: ObservedWorker[];
  autoscaled: boolean;
  /** How many web servers hold connections to the database besides. */
  webServers: number;
}

export type WorkerStep =
  | { do: 'share-connections'; servers: number; workers: number }
  | { do: 'start-worker'; name: string }
  | { do: 'stop-workers'; names: string[] }
  | { do: 'start-worker-autoscaler' }
  | { do: 'stop-worker-autoscaler' };

export function planWorkers(observed: ObservedWorkers, desired: DesiredWorkers): WorkerStep[] {
  const isCurrent = ({ release, revision }: ObservedWorker) =>
    release === desired.release && revision === desired.revision;
  const present = observed.workers.toSorted((a, b) => byNumber(a.name, b.name));
  const current = present.filter(isCurrent);
  const outdated = present.filter(worker => !isCurrent(worker));
  // More than there shall be: those that would be replaced anyway, then the last that came.
  const excess = Math.max(0, present.length - desired.servers);
  const leavingFirst = [...outdated, ...current.toReversed()].slice(0, excess);
  outdated.splice(0, excess);
  const missing = Math.max(0, desired.servers - current.length);
  const names = new UnitNames(
    'worker',
    present.map(({ name }) => name),
  );

  const steps: WorkerStep[] = [];
  if (observed.autoscaled && !desired.autoscaled) steps.push({ do: 'stop-worker-autoscaler' });
  if (leavingFirst.length > 0) {
    // Together: each may have a job in hand for as long as the drain lasts.
    const leaving = leavingFirst.map(({ name }) => name);
    steps.push({ do: 'stop-workers', names: leaving });
    for (const name of leaving) names.release(name);
  }
  // One in, one out.
  for (let added = 0; added < missing; added++) {
    const name = names.next();
    steps.push({ do: 'start-worker', name });
    const leaving = outdated.shift();
    if (!leaving) continue;
    steps.push({ do: 'stop-workers', names: [leaving.name] });
    names.release(leaving.name);
  }
  if (!observed.autoscaled && desired.autoscaled) steps.push({ do: 'start-worker-autoscaler' });
  return withShares(steps, observed, desired.servers);
}

/**
 * The database's connections are shared out for the most processes that run at a time: before the first is added, and
 * again when the last has gone. As the web tier does it, whose servers hold their part meanwhile.
 */
function withShares(
  steps: WorkerStep[],
  { workers, webServers }: ObservedWorkers,
  after: number,
): WorkerStep[] {
  const before = workers.length;
  let running = before;
  let peak = before;
  for (const step of steps) {
    if (step.do === 'start-worker') peak = Math.max(peak, ++running);
    if (step.do === 'stop-workers') running -= step.names.length;
  }
  const share = (count: number): WorkerStep => ({
    do: 'share-connections',
    servers: webServers + count,
    workers: count,
  });
  return [
    ...(peak > before ? [share(peak)] : []),
    ...steps,
    ...(after < peak ? [share(after)] : []),
  ];
}
