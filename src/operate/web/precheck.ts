/**
 * What can be found out before anything is touched: a mistake that is told here costs nothing, the same
 * in the middle of an operation costs a way there and back.
 */
import { findHaproxy } from '../../engines/haproxy.ts';
import { isPortFree, PortInUse, portHolder } from '../../machines/free-port.ts';
import { connectionsPerServer } from '../../topology/connections.ts';
import type { Deployment } from '../deployment.ts';
import { prepareCertificate } from './certificate.ts';
import type { Step } from './plan.ts';
import { hostOf, type WebShape } from './shape.ts';

/**
 * @param workers how many there are to be besides, which hold connections too
 * @throws TooManyServers, HaproxyMissing, CertificateUnusable, PortInUse
 */
export async function precheck(
  deployment: Deployment,
  shape: WebShape,
  steps: Step[],
  workers = 0,
): Promise<void> {
  const wanted = shape.servers + workers;
  connectionsPerServer(wanted, shape.maxConnections, { workers });
  for (const step of steps) {
    // While servers are replaced there is one more of them.
    if (step.do === 'share-connections') {
      connectionsPerServer(step.servers, shape.maxConnections, { workers: step.workers, wanted });
    }
  }
  if (!shape.balancer) return;
  findHaproxy();
  const { tls } = shape.balancer;
  if (!tls) return;
  await prepareCertificate(deployment, tls.certificate);
  for (const step of steps) {
    if (step.do === 'start-balancer') await checkTlsPort(hostOf(step.address), tls.port);
  }
}

/** @throws PortInUse */
export async function checkTlsPort(host: string, port: number): Promise<void> {
  if (await isPortFree(port, host)) return;
  const remedy = 'Nothing was changed. Stop what uses it, or choose another in `balancer.tls.port`';
  throw new PortInUse(port, host, await portHolder(port), remedy);
}
