/** What runs of the web tier: asked from the machine and from the balancers themselves. */
import { AUTOSCALER } from '../../engines/autoscaler.ts';
import { HaproxyRuntime, type ServerStatistics } from '../../engines/haproxy-runtime.ts';
import type { Machine, UnitState } from '../../machines/unit.ts';
import type { Deployment } from '../deployment.ts';
import { runtimeSocket } from './balancer-files.ts';
import type { ObservedWeb } from './plan.ts';

/** Labels that web servers and balancers carry, so that whoever comes later knows what they are. */
export interface ServerLabels {
  release: number;
  revision: string;
  direct: boolean;
  port: number;
  weight: number;
}

export interface WebNow extends ObservedWeb {
  /** Where the servers listen, by name. */
  ports: Map<string, number>;
}

export async function observeWeb(machine: Machine, deployment: Deployment): Promise<WebNow> {
  const states = await machine.states();
  const balancers = await Promise.all(
    states
      .filter(({ tier }) => tier === 'balancer')
      .map(async ({ name, labels }) => {
        const runtime = new HaproxyRuntime(runtimeSocket(deployment, name));
        // One that does not answer has nobody joined and no revision: the plan puts it right.
        const revision = await runtime.revision().catch(() => '');
        const servers = await runtime.statistics().then(
          statistics => statistics.servers,
          (): ServerStatistics[] => [],
        );
        return { name, address: String(labels.address), revision, servers };
      }),
  );
  const servers = states.filter(isServer).map(state => {
    const labels = state.labels as unknown as ServerLabels;
    const seen = balancers.map(each => each.servers.find(({ name }) => name === state.name));
    const weight = seen.find(server => server !== undefined)?.weight;
    return {
      name: state.name,
      release: labels.release,
      revision: labels.revision,
      direct: labels.direct,
      weight: weight ?? labels.weight,
      joined: seen.length > 0 && seen.every(server => server && !/^MAINT/.test(server.status)),
    };
  });
  return {
    servers,
    balancers: balancers.map(({ name, address, revision }) => ({ name, address, revision })),
    autoscaled: states.some(({ name }) => name === AUTOSCALER),
    workers: states.filter(({ tier }) => tier === 'workers').length,
    ports: new Map(states.filter(isServer).map(({ name, labels }) => [name, Number(labels.port)])),
  };
}

function isServer({ tier }: UnitState): boolean {
  return tier === 'web';
}
