/**
 * Patroni as a unit: it runs one PostgreSQL, and with the others decides who is the primary.
 *
 * Holds true here:
 * - Patroni puts PostgreSQL into a session of its own. When Patroni alone is killed, PostgreSQL goes on, and
 *   the Patroni that is started anew takes it over; when the unit is stopped, both end.
 * - A node without data gets it from the primary (`pg_basebackup`), or makes it if it is the first of all.
 */
import { BanyanError } from '../errors.ts';
import {
  type Account,
  type Diagnosis,
  type EngineSupport,
  type Labels,
  PORT_LOST,
  type StopRule,
  type UnitSpec,
} from '../machines/unit.ts';
import { findProgram } from './find-program.ts';
import type { CertificateFiles } from './node-certificate.ts';
import { askNode } from './node-client.ts';
import { type DatabaseNode, dataFolderOf } from './patroni-config.ts';
import { interpreterOf, launcherFileOf } from './patroni-guard.ts';

/** The application needs it; etcd has to outlive it. */
const RANK = 10;

/** An election comes first, and a log that is to be replayed. */
const START_TIMEOUT_MS = 120_000;
/** A copy of a large database takes its time. */
const COPY_TIMEOUT_MS = 6 * 3_600_000;

/** PostgreSQL writes a checkpoint before it ends. */
const STOP: StopRule = { signal: 'SIGTERM', group: false, timeoutMs: 60_000 };
const STOP_POSTGRES: StopRule = { signal: 'SIGINT', group: false, timeoutMs: 60_000 };

export class PatroniMissing extends BanyanError {
  constructor() {
    super('PATRONI_MISSING', {
      what: 'A replicated database needs Patroni, and it is not installed',
      where: 'patroni',
      remedy:
        'Install it: `sudo apt-get install -y --no-install-recommends patroni python3-etcd python3-idna` (macOS: `brew install patroni`, or `pipx install "patroni[etcd3,psycopg3]"`)',
    });
  }
}

/** @throws PatroniMissing */
export function findPatroni(searchPath?: string, systemFolders?: readonly string[]): string {
  const found = findProgram('patroni', searchPath, systemFolders);
  if (!found) throw new PatroniMissing();
  return found;
}

export interface PatroniUnitOptions {
  node: DatabaseNode;
  certificate: CertificateFiles;
  account: Account | undefined;
  /** It has no data yet and copies another's. */
  copies: boolean;
  labels?: Labels;
}

/** The unit that runs it. `patroniFileOf(node)` and `launcherFileOf(node.folder)` have to be there. */
export function patroniUnit({
  node,
  certificate,
  account,
  copies,
  labels = {},
}: PatroniUnitOptions): UnitSpec {
  const { ca, certificate: cert, key } = certificate;
  const patroni = findPatroni();
  return {
    name: node.name,
    tier: 'database',
    engine: 'patroni',
    command: interpreterOf(patroni),
    args: [launcherFileOf(node.folder), patroni, patroniFileOf(node)],
    cwd: node.folder,
    env: { PATH: process.env.PATH, LC_ALL: 'C.UTF-8', TZ: 'UTC', PYTHONUNBUFFERED: '1' },
    ...(account ? { user: account } : {}),
    stop: STOP,
    detached: {
      pidFile: `${dataFolderOf(node)}/postmaster.pid`,
      commandHas: dataFolderOf(node),
      stop: STOP_POSTGRES,
    },
    rank: RANK,
    startTimeoutMs: copies ? COPY_TIMEOUT_MS : START_TIMEOUT_MS,
    probe: { url: `${restUrl(node)}/readiness`, ca, certificate: cert, key },
    address: `${node.host}:${node.port}`,
    labels: { ...labels, port: node.port, restPort: node.restPort },
  };
}

export function patroniFileOf({ folder }: Pick<DatabaseNode, 'folder'>): string {
  return `${folder}/patroni.json`;
}

/** Of its own interface. */
export function restUrl({ host, restPort }: Pick<DatabaseNode, 'host' | 'restPort'>): string {
  return `https://${host.includes(':') ? `[${host}]` : host}:${restPort}`;
}

export const patroniEngine: EngineSupport = {
  /** Ready is a PostgreSQL that answers: the primary, or a replica that has its copy. */
  async probe({ probe: facts }, _pid, signal) {
    const { status, body } = await askNode(
      String(facts.url),
      { ca: String(facts.ca), certificate: String(facts.certificate), key: String(facts.key) },
      { signal },
    );
    if (status === 200) return { ready: true };
    const state = (body as { state?: string } | undefined)?.state;
    return { ready: false, reason: `PostgreSQL is not ready: ${state ?? `status ${status}`}` };
  },
  diagnose: (_spec, lastWords) => diagnose(lastWords),
};

function diagnose(lastWords: string[]): Diagnosis | undefined {
  const text = lastWords.join('\n');
  if (/No space left on device/i.test(text)) {
    return {
      what: 'the disk is full',
      remedy: 'Nothing committed is lost. Free some space; `df -h` shows where it went',
    };
  }
  const module = /ModuleNotFoundError\("No module named '(\w+)'"\)/.exec(text)?.[1];
  if (module) {
    return {
      what: `its Python lacks the module ${module}`,
      remedy: `Install it: \`sudo apt-get install -y python3-${module}\`, or \`pip install ${module}\``,
    };
  }
  if (/Can not find suitable configuration of distributed configuration store/i.test(text)) {
    return {
      what: 'its Python lacks the client for etcd',
      remedy:
        'Install it: `sudo apt-get install -y python3-etcd`, or `pip install "patroni[etcd3]"`',
    };
  }
  if (/(could not bind|\[Errno \d+\]) .*Address already in use/i.test(text)) {
    return PORT_LOST;
  }
  if (/could not map anonymous shared memory|Cannot allocate memory/i.test(text)) {
    return {
      what: 'there is not enough memory',
      remedy: 'Set `database.memoryMb` in banyan.config.ts to a smaller number',
    };
  }
  return undefined;
}
