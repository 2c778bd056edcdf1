/**
 * etcd as a unit: where the nodes of a replicated database agree on who is the primary.
 *
 * One member serves as long as it runs, and while it does not, the primary goes on for about twenty seconds. Three
 * serve while two of them do; each on a machine of its own survives the loss of one. All traffic is
 * encrypted, and only holders of the deployment's certificates are heard.
 */
import { BanyanError } from '../errors.ts';
import {
  type Account,
  type Diagnosis,
  type EngineSupport,
  PORT_LOST,
  type UnitSpec,
} from '../machines/unit.ts';
import { findProgram } from './find-program.ts';
import type { CertificateFiles } from './node-certificate.ts';
import { askNode } from './node-client.ts';

/** The database's nodes need it to stop in good order. */
const RANK = 5;
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 10_000;

/** Old revisions of keys are forgotten after this long: nobody asks for them. */
const COMPACTION = '10m';

export class EtcdMissing extends BanyanError {
  constructor() {
    super('ETCD_MISSING', {
      what: 'A replicated database needs etcd to agree on its primary, and it is not installed',
      where: 'etcd',
      remedy:
        'Install it: `sudo apt-get install -y --no-install-recommends etcd-server` (macOS: `brew install etcd`). Debian starts a server of its own with it, which is not needed: `sudo systemctl disable --now etcd`',
    });
  }
}

/** One member of etcd. */
export interface EtcdMember {
  name: string;
  host: string;
  /** Patroni asks here. */
  clientPort: number;
  /** The other members do. */
  peerPort: number;
  dataFolder: string;
}

/** @throws EtcdMissing */
export function findEtcd(searchPath?: string, systemFolders?: readonly string[]): string {
  const found = findProgram('etcd', searchPath, systemFolders);
  if (!found) throw new EtcdMissing();
  return found;
}

export interface EtcdUnitOptions {
  member: EtcdMember;
  /** All of them, this one included. */
  members: readonly EtcdMember[];
  certificate: CertificateFiles;
  /** Keeps this one from taking part in another deployment's. */
  token: string;
  account: Account | undefined;
}

export function etcdUnit({
  member,
  members,
  certificate,
  token,
  account,
}: EtcdUnitOptions): UnitSpec {
  const { name, host, clientPort, peerPort, dataFolder } = member;
  const { ca, certificate: cert, key } = certificate;
  const flags: Record<string, string> = {
    name,
    'data-dir': dataFolder,
    'listen-client-urls': url(host, clientPort),
    'advertise-client-urls': url(host, clientPort),
    'listen-peer-urls': url(host, peerPort),
    'initial-advertise-peer-urls': url(host, peerPort),
    'initial-cluster': members
      .map(each => `${each.name}=${url(each.host, each.peerPort)}`)
      .join(','),
    'initial-cluster-token': token,
    'initial-cluster-state': 'new',
    'cert-file': cert,
    'key-file': key,
    'trusted-ca-file': ca,
    'client-cert-auth': 'true',
    'peer-cert-file': cert,
    'peer-key-file': key,
    'peer-trusted-ca-file': ca,
    'peer-client-cert-auth': 'true',
    'auto-compaction-mode': 'periodic',
    'auto-compaction-retention': COMPACTION,
    'log-level': 'warn',
    logger: 'zap',
  };
  return {
    name,
    tier: 'agreement',
    engine: 'etcd',
    command: findEtcd(),
    args: Object.entries(flags).map(([flag, value]) => `--${flag}=${value}`),
    cwd: dataFolder,
    env: { PATH: process.env.PATH },
    ...(account ? { user: account } : {}),
    stop: { signal: 'SIGTERM', group: false, timeoutMs: STOP_TIMEOUT_MS },
    rank: RANK,
    startTimeoutMs: START_TIMEOUT_MS,
    probe: { url: `${url(host, clientPort)}/health`, ca, certificate: cert, key },
    address: `${host}:${clientPort}`,
  };
}

export const etcdEngine: EngineSupport = {
  /** Healthy is one who knows of a leader: a member alone is not, before the others are there. */
  async probe({ probe: facts }, _pid, signal) {
    const { status, body } = await askNode(
      String(facts.url),
      {
        ca: String(facts.ca),
        certificate: String(facts.certificate),
        key: String(facts.key),
      },
      { signal },
    );
    const health = (body as { health?: string } | undefined)?.health;
    return status === 200 && health === 'true'
      ? { ready: true }
      : { ready: false, reason: 'it has no leader yet' };
  },
  diagnose: (_spec, lastWords) => diagnose(lastWords),
};

function diagnose(lastWords: string[]): Diagnosis | undefined {
  const text = lastWords.join('\n');
  if (/no space left on device/i.test(text)) {
    return { what: 'the disk is full', remedy: 'Free some space; `df -h` shows where it went' };
  }
  if (/address already in use/i.test(text)) {
    return PORT_LOST;
  }
  return undefined;
}

function url(host: string, port: number): string {
  return `https://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
