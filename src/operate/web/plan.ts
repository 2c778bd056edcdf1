/**
 * From what runs to what should run: the steps for the web tier. Pure.
 *
 * Holds true of every plan:
 * - At every moment between two steps somebody serves the public address, if somebody did before.
 * - A server gets requests only after it was ready, and is stopped only after it gets none.
 * - Carried out to the end, a plan of the same desire has no steps: so a plan that was cut off in the
 *   middle is continued by planning again.
 *
 * Glossary:
 * - direct: a server that takes users' connections itself, on the public socket. The others stand behind
 *   a balancer.
 * - current: a server that is as desired; outdated: one of another release or revision, or direct where
 *   there should be a balancer.
 */
import { UnitNames } from '../unit-names.ts';

export interface DesiredWeb {
  release: number;
  /** Of the servers' settings. */
  revision: string;
  /** One for each server. */
  weights: number[];
  /** Addresses, a balancer each; none when the one server is direct. */
  balancers: string[];
  balancerRevision: string;
  /** Whether the autoscaler watches over their number. */
  autoscaled: boolean;
}

export interface ObservedServer {
  name: string;
  release: number;
  revision: string;
  direct: boolean;
  weight: number;
  /** It gets requests from every balancer that runs. */
  joined: boolean;
}

export interface ObservedBalancer {
  name: string;
  address: string;
  revision: string;
}

export interface ObservedWeb {
  servers: ObservedServer[];
  balancers: ObservedBalancer[];
  autoscaled: boolean;
  /** How many workers hold connections to the database besides. */
  workers: number;
}

export type Step =
  | { do: 'share-connections'; servers: number; workers: number }
  | { do: 'start-server'; name: string; weight: number; direct: boolean }
  | { do: 'join'; name: string }
  | { do: 'leave'; name: string }
  | { do: 'stop-server'; name: string; drain: boolean }
  | { do: 'set-weight'; name: string; weight: number }
  | { do: 'start-balancer'; name: string; address: string }
  | { do: 'reload-balancer'; name: string }
  | { do: 'stop-balancer'; name: string }
  | { do: 'start-autoscaler' }
  | { do: 'stop-autoscaler' };

export function planWeb(observed: ObservedWeb, desired: DesiredWeb): Step[] {
  const isBalanced = desired.balancers.length > 0;
  const isCurrent = (server: ObservedServer) =>
    server.release === desired.release &&
    server.revision === desired.revision &&
    server.direct === !isBalanced;
  const { missing, surplus, reweighed } = matchWeights(
    observed.servers.filter(isCurrent),
    desired.weights,
  );
  const outdated = observed.servers.filter(server => !isCurrent(server));
  const balancers = matchBalancers(observed.balancers, desired);
  const names = new UnitNames(
    'web',
    observed.servers.map(({ name }) => name),
  );

  const steps: Step[] = [];
  if (observed.autoscaled && !desired.autoscaled) steps.push({ do: 'stop-autoscaler' });
  const start = (weight: number, direct: boolean) => {
    const name = names.next();
    steps.push({ do: 'start-server', name, weight, direct });
    return name;
  };
  const retire = (server: ObservedServer) => {
    if (!server.direct && isBalanced) steps.push({ do: 'leave', name: server.name });
    steps.push({ do: 'stop-server', name: server.name, drain: server.direct });
    names.release(server.name);
  };

  if (!isBalanced) {
    // On the public socket old and new accept side by side until the old one leaves.
    for (const weight of missing) start(weight, true);
    steps.push(...balancers.stops, ...reweighed);
  } else if (observed.balancers.length === 0) {
    // All servers first, so that the balancer starts with everyone to send requests to.
    for (const weight of missing) start(weight, false);
    steps.push(...reweighed, ...balancers.starts);
  } else {
    steps.push(...balancers.starts, ...balancers.reloads);
    for (const server of observed.servers) {
      const stays = isCurrent(server) && !surplus.includes(server);
      if (stays && !server.joined) steps.push({ do: 'join', name: server.name });
    }
    steps.push(...reweighed);
    // One in, one out: never fewer than before, never more than one above.
    for (const weight of missing) {
      steps.push({ do: 'join', name: start(weight, false) });
      const leaving = outdated.shift();
      if (leaving) retire(leaving);
    }
  }
  for (const server of [...outdated, ...surplus]) retire(server);
  if (isBalanced) steps.push(...balancers.stops);
  if (!observed.autoscaled && desired.autoscaled) steps.push({ do: 'start-autoscaler' });
  return withShares(steps, observed, desired.weights.length);
}

/** Pairs servers with wanted weights, leaving as many as possible as they are. */
function matchWeights(servers: ObservedServer[], weights: number[]) {
  const missing = [...weights];
  const unmatched: ObservedServer[] = [];
  for (const server of servers) {
    const index = missing.indexOf(server.weight);
    if (index >= 0) missing.splice(index, 1);
    else unmatched.push(server);
  }
  const reweighed: Step[] = [];
  while (unmatched.length > 0 && missing.length > 0) {
    const { name } = unmatched.shift()!;
    reweighed.push({ do: 'set-weight', name, weight: missing.shift()! });
  }
  return { missing, surplus: unmatched.reverse(), reweighed };
}

function matchBalancers(observed: ObservedBalancer[], desired: DesiredWeb) {
  const names = new UnitNames(
    'balancer',
    observed.map(({ name }) => name),
  );
  const wanted = new Set(desired.balancers);
  const unwanted = observed.filter(({ address }) => !wanted.has(address));
  const present = observed.filter(({ address }) => wanted.has(address));
  const addresses = new Set(present.map(({ address }) => address));
  const starts: Step[] = desired.balancers
    .filter(address => !addresses.has(address))
    .map(address => ({ do: 'start-balancer', name: names.next(), address }));
  const reloads: Step[] = present
    .filter(({ revision }) => revision !== desired.balancerRevision)
    .map(({ name }) => ({ do: 'reload-balancer', name }));
  const stops: Step[] = unwanted.map(({ name }) => ({ do: 'stop-balancer', name }));
  return { starts, reloads, stops };
}

/**
 * The database's connections are shared out for the most servers that run at a time: before the first
 * is added, and again when the last has gone.
 */
function withShares(
  steps: Step[],
  { servers, workers }: Pick<ObservedWeb, 'servers' | 'workers'>,
  after: number,
): Step[] {
  const before = servers.length;
  let running = before;
  let peak = before;
  for (const step of steps) {
    if (step.do === 'start-server') peak = Math.max(peak, ++running);
    if (step.do === 'stop-server') running--;
  }
  const share = (count: number): Step => ({
    do: 'share-connections',
    servers: count + workers,
    workers,
  });
  return [
    ...(peak > before ? [share(peak)] : []),
    ...steps,
    ...(after < peak ? [share(after)] : []),
  ];
}
