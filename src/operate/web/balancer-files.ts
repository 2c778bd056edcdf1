/**
 * The balancers' files: configuration and control socket. The configuration on disk always
 * names the servers that run, and is checked by HAProxy before it takes the place of the old one.
 */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { deriveKeyFrom } from '../../app/environment.ts';
import { isRoot, unprivilegedAccount } from '../../engines/account.ts';
import { checkHaproxyConfig } from '../../engines/haproxy.ts';
import {
  type BalancedServer,
  type BalancerSettings,
  renderHaproxyConfig,
} from '../../engines/haproxy-config.ts';
import { renderKeepalivedConfig } from '../../engines/keepalived.ts';
import { writeFileAtomic } from '../../map/atomic-file.ts';
import type { Deployment } from '../deployment.ts';
import { certificateFile } from './certificate.ts';
import type { WebShape } from './shape.ts';

/** Where a balancer's control socket lies. */
export function runtimeSocket(deployment: Deployment, balancer: string): string {
  return deployment.paths.socketFor(balancer);
}

/** What a balancer's configuration says, but for its servers. */
export function balancerSettings(
  deployment: Deployment,
  balancer: string,
  shape: WebShape,
  revision: string,
  servers: BalancedServer[],
): BalancerSettings {
  const { web, balancer: settings } = shape;
  if (!settings) throw new Error('a shape without a balancer has no settings for one');
  const { tls } = settings;
  return {
    revision,
    runtimeSocket: runtimeSocket(deployment, balancer),
    account: isRoot() ? unprivilegedAccount() : undefined,
    algorithm: settings.algorithm,
    stickyKey: web.sticky
      ? deriveKeyFrom(deployment.secrets.application, 'sticky-cookie').toString('hex')
      : undefined,
    tls: tls && {
      certificateFile: certificateFile(deployment, tls.certificate),
      redirectToPort: tls.redirect ? tls.port : undefined,
    },
    rateLimit: settings.rateLimit,
    maxBodyBytes: settings.maxBodyMb * 1024 * 1024,
    maxConcurrency: web.maxConcurrency,
    ready: web.ready,
    timeouts: {
      clientMs: 60_000,
      responseMs: settings.responseTimeoutMs,
      checkMs: settings.checkTimeoutMs,
      queueMs: settings.queueTimeoutMs,
      tunnelMs: settings.tunnelTimeoutMs,
      drainMs: web.drainTimeoutMs,
    },
    servers,
  };
}

/** @returns the file. @throws HaproxyConfigInvalid: then the old one is still there */
export async function writeBalancerConfig(
  deployment: Deployment,
  balancer: string,
  settings: BalancerSettings,
): Promise<string> {
  const folder = deployment.paths.balancer;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const file = path.join(folder, `${balancer}.cfg`);
  const text = renderHaproxyConfig(settings);
  if (existsSync(file) && readFileSync(file, 'utf8') === text) return file;
  const draft = `${file}.new`;
  try {
    await writeFile(draft, text, { mode: 0o600 });
    await checkHaproxyConfig(draft);
    await rename(draft, file);
  } finally {
    await rm(draft, { force: true });
  }
  return file;
}

/** For real hosts, where an address moves between two balancers. Banyan does not run keepalived itself. */
export async function writeKeepalivedConfigs(
  deployment: Deployment,
  shape: WebShape,
): Promise<void> {
  const { virtualAddress, addresses = [] } = shape.balancer ?? {};
  if (!virtualAddress) return;
  await mkdir(deployment.paths.balancer, { recursive: true, mode: 0o700 });
  for (const [index, address] of addresses.entries()) {
    const text = renderKeepalivedConfig({
      deployment: deployment.database,
      address,
      peers: addresses.filter(other => other !== address),
      virtualAddress,
      priority: 150 - index,
      password: deriveKeyFrom(deployment.secrets.application, 'vrrp').toString('hex').slice(0, 8),
    });
    const file = path.join(deployment.paths.balancer, `keepalived-${index + 1}.conf`);
    await writeFileAtomic(file, text);
  }
}
