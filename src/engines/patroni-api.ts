/** Patroni's own interface: who is who, and the changes that only the nodes themselves can make. */
import { BanyanError } from '../errors.ts';
import type { CertificateFiles } from './node-certificate.ts';
import { askNode, type NodeRequest } from './node-client.ts';
import { restUrl } from './patroni.ts';
import type { ClusterPasswords, DatabaseNode } from './patroni-config.ts';
import { restCredentials } from './patroni-config.ts';

export type NodeRole = 'primary' | 'synchronous replica' | 'replica';

/** How one node stands, as the cluster sees it. */
export interface NodeStanding {
  name: string;
  role: NodeRole;
  /** Patroni's word: `running`, `streaming`, `starting`, `stopped`, `creating replica`, … */
  state: string;
  timeline: number | undefined;
  /** Behind the primary, in bytes; undefined when it is not known. */
  lagBytes: number | undefined;
  /** A setting was changed that counts only after a restart. */
  pendingRestart: boolean;
}

export class PatroniRefused extends BanyanError {
  constructor(where: string, what: string, answer: unknown) {
    super('PATRONI_REFUSED', {
      what: `${what}: ${typeof answer === 'string' ? answer.trim() : JSON.stringify(answer)}`,
      where,
      remedy: 'See `banyan status` for who is who, and `banyan logs` of the node',
    });
  }
}

interface ClusterAnswer {
  members: {
    name: string;
    role: string;
    state: string;
    timeline?: number;
    lag?: number | 'unknown';
    pending_restart?: boolean;
  }[];
}

const ANSWER_TIMEOUT_MS = 5_000;

export class PatroniApi {
  readonly #node: DatabaseNode;
  readonly #certificate: CertificateFiles;
  readonly #auth: string;

  constructor(node: DatabaseNode, certificate: CertificateFiles, passwords: ClusterPasswords) {
    this.#node = node;
    this.#certificate = certificate;
    this.#auth = restCredentials(passwords);
  }

  async cluster(timeoutMs = ANSWER_TIMEOUT_MS): Promise<NodeStanding[]> {
    const { members } = (await this.#ask('/cluster', {}, timeoutMs)) as ClusterAnswer;
    return members.map(({ name, role, state, timeline, lag, pending_restart }) => ({
      name,
      role: roleOf(role),
      state,
      timeline,
      lagBytes: typeof lag === 'number' ? lag : undefined,
      pendingRestart: pending_restart ?? false,
    }));
  }

  /** Whether a setting of this node counts only after a restart; `cluster` tells it a second later. */
  async pendingRestart(): Promise<boolean> {
    const { pending_restart } = (await this.#ask('/patroni')) as { pending_restart?: boolean };
    return pending_restart ?? false;
  }

  /** What all nodes agree on. */
  async config(): Promise<Record<string, unknown>> {
    return (await this.#ask('/config')) as Record<string, unknown>;
  }

  async patchConfig(change: unknown): Promise<void> {
    await this.#ask('/config', { method: 'PATCH', body: change });
  }

  /**
   * Hands the primary's role over, in good order.
   * @throws PatroniRefused when the candidate is not fit for it
   */
  async switchOver(
    leader: string,
    candidate: string | undefined,
    timeoutMs: number,
  ): Promise<void> {
    await this.#ask(
      '/switchover',
      { method: 'POST', body: { leader, ...(candidate ? { candidate } : {}) } },
      timeoutMs,
    );
  }

  /** Makes a node the primary although there is none, or although the one that is there does not answer. */
  async failOver(candidate: string, timeoutMs: number): Promise<void> {
    await this.#ask('/failover', { method: 'POST', body: { candidate } }, timeoutMs);
  }

  /** Restarts PostgreSQL on this node and waits until it serves again. */
  async restart(timeoutMs: number): Promise<void> {
    await this.#ask('/restart', { method: 'POST', body: {} }, timeoutMs);
  }

  /** @throws PatroniRefused */
  async #ask(
    path: string,
    request: Omit<NodeRequest, 'auth' | 'signal'> = {},
    timeoutMs = ANSWER_TIMEOUT_MS,
  ): Promise<unknown> {
    const { status, body } = await askNode(`${restUrl(this.#node)}${path}`, this.#certificate, {
      ...request,
      ...(request.method ? { auth: this.#auth } : {}),
      signal: AbortSignal.timeout(timeoutMs),
    });
    if (status >= 300) {
      throw new PatroniRefused(this.#node.name, `Patroni refused ${path.slice(1)}`, body);
    }
    return body;
  }
}

function roleOf(role: string): NodeRole {
  if (/leader|master|primary/.test(role)) return 'primary';
  return role === 'sync_standby' ? 'synchronous replica' : 'replica';
}
