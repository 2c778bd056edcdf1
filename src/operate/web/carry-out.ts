/**
 * Carries the steps of a plan out.
 *
 * Holds true here:
 * - Each step may be done twice: a controller that was killed between doing and noting does it again.
 * - A step that failed leaves what served before serving.
 */
import { rm } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { AUTOSCALER, autoscalerUnit } from '../../engines/autoscaler.ts';
import { haproxyUnit } from '../../engines/haproxy.ts';
import type { BalancedServer } from '../../engines/haproxy-config.ts';
import { HaproxyRuntime } from '../../engines/haproxy-runtime.ts';
import { webServerUnit } from '../../engines/web-server.ts';
import { BanyanError } from '../../errors.ts';
import { freePort, onFreePort } from '../../machines/free-port.ts';
import { connectionsPerServer } from '../../topology/connections.ts';
import {
  balancerSettings,
  runtimeSocket,
  writeBalancerConfig,
  writeKeepalivedConfigs,
} from './balancer-files.ts';
import { prepareCertificate } from './certificate.ts';
import { publicAddress, type WebContext } from './context.ts';
import { observeWeb, type ServerLabels, type WebNow } from './observe.ts';
import type { DesiredWeb, Step } from './plan.ts';
import { hasTls, hostOf, type WebShape } from './shape.ts';

/** Servers behind a balancer are for it alone. */
const LOOPBACK = '127.0.0.1';

/** A server that has ended has no connections; HAProxy needs a moment to see it. */
const REMOVE_TIMEOUT_MS = 5_000;

/** A reload that has not come into force after this has failed; the old settings go on. */
const RELOAD_TIMEOUT_MS = 10_000;
const RELOAD_POLL_MS = 20;

export class ReloadFailed extends BanyanError {
  constructor(balancer: string) {
    super('RELOAD_FAILED', {
      what: `${balancer} did not take its new settings within ${RELOAD_TIMEOUT_MS / 1_000} s; it goes on with the old ones`,
      where: balancer,
      remedy: `See \`banyan logs ${balancer}\` for the reason`,
    });
  }
}

export class WebTier {
  readonly #context: WebContext;
  readonly #shape: WebShape;
  readonly #desired: DesiredWeb;
  readonly #now: WebNow;

  constructor(context: WebContext, shape: WebShape, desired: DesiredWeb, now: WebNow) {
    this.#context = context;
    this.#shape = shape;
    this.#desired = desired;
    this.#now = now;
  }

  static async observe(
    context: WebContext,
    shape: WebShape,
    desired: DesiredWeb,
  ): Promise<{ tier: WebTier; now: WebNow }> {
    const now = await observeWeb(context.machine, context.deployment);
    return { tier: new WebTier(context, shape, desired, now), now };
  }

  /** Makes files that were left behind by a controller that was killed agree with what runs. */
  async tidy(): Promise<void> {
    if (this.#now.balancers.length > 0 && this.#shape.balancer) await this.#writeConfigs();
  }

  async carryOut(step: Step): Promise<void> {
    switch (step.do) {
      case 'share-connections':
        return this.#context.shareConnections(
          connectionsPerServer(step.servers, this.#shape.maxConnections, { workers: step.workers }),
        );
      case 'start-server':
        return this.#startServer(step);
      case 'join':
        return this.#join(step.name);
      case 'leave':
        return this.#leave(step.name);
      case 'stop-server':
        return this.#stopServer(step.name);
      case 'set-weight':
        return this.#setWeight(step.name, step.weight);
      case 'start-balancer':
        return this.#startBalancer(step.name, step.address);
      case 'reload-balancer':
        return this.#reloadBalancer(step.name);
      case 'stop-balancer':
        return this.#stopBalancer(step.name);
      case 'start-autoscaler':
        return this.#startAutoscaler();
      case 'stop-autoscaler':
        return this.#context.machine.stop(AUTOSCALER);
    }
  }

  async #startServer(step: Extract<Step, { do: 'start-server' }>): Promise<void> {
    const { web } = this.#shape;
    const { release, revision } = this.#desired;
    const { name, weight, direct } = step;
    // Left by a controller that was killed before it could note it, or half started.
    await this.#context.machine.stop(name);
    // A socket of an earlier run must not be taken for this one's.
    await rm(this.#context.deployment.paths.socketFor(name), { force: true });
    const host = direct ? web.host : LOOPBACK;
    const start = async (port: number) => {
      const labels: ServerLabels = { release, revision, direct, port, weight };
      const unit = webServerUnit({
        ...web,
        name,
        folder: this.#context.releaseFolder(release),
        host,
        port,
        probeSocket: this.#context.deployment.paths.socketFor(name),
        env: { ...this.#context.env, BANYAN_UNIT: name, BANYAN_RELEASE: String(release) },
        labels: { ...labels },
        ...(direct ? { socket: publicAddress(this.#context, host), shares: this.#isServed() } : {}),
      });
      await this.#context.machine.start(unit);
      this.#now.servers.push({ name, release, revision, direct, weight, joined: false });
      this.#now.ports.set(name, port);
    };
    if (direct) await start(this.#context.publicPort);
    else await onFreePort(LOOPBACK, freePort, start);
  }

  /** Somebody serves the public address already. */
  #isServed(): boolean {
    const { servers, balancers } = this.#now;
    return balancers.length > 0 || servers.some(({ direct }) => direct);
  }

  async #join(name: string): Promise<void> {
    const server = this.#server(name);
    server.joined = true;
    await this.#writeConfigs();
    for (const { name: balancer } of this.#now.balancers) {
      await this.#runtime(balancer).add(this.#balanced(name), this.#settings(balancer));
    }
  }

  async #leave(name: string): Promise<void> {
    this.#server(name).joined = false;
    await this.#writeConfigs();
    await Promise.all(
      this.#now.balancers.map(({ name: balancer }) =>
        this.#runtime(balancer).drain(name, this.#shape.web.drainTimeoutMs),
      ),
    );
  }

  async #stopServer(name: string): Promise<void> {
    await this.#context.machine.stop(name);
    const { servers, ports, balancers } = this.#now;
    servers.splice(
      servers.findIndex(server => server.name === name),
      1,
    );
    ports.delete(name);
    for (const { name: balancer } of balancers) {
      await this.#runtime(balancer).remove(name, REMOVE_TIMEOUT_MS);
    }
  }

  async #setWeight(name: string, weight: number): Promise<void> {
    this.#server(name).weight = weight;
    await this.#writeConfigs();
    for (const { name: balancer } of this.#now.balancers) {
      await this.#runtime(balancer).setWeight(name, weight);
    }
  }

  async #startBalancer(name: string, front: string): Promise<void> {
    const { machine, deployment } = this.#context;
    const { tls } = this.#shape.balancer!;
    const host = hostOf(front);
    await machine.stop(name);
    if (tls) await prepareCertificate(deployment, tls.certificate);
    await writeKeepalivedConfigs(deployment, this.#shape);
    for (const server of this.#now.servers) if (!server.direct) server.joined = true;
    const plain = publicAddress(this.#context, host);
    const encrypted = tls ? [{ host, port: tls.port }] : [];
    await machine.start(
      haproxyUnit({
        name,
        configFile: await writeBalancerConfig(deployment, name, this.#settings(name, front)),
        runtimeSocket: runtimeSocket(deployment, name),
        sockets: [plain, ...encrypted],
        drainTimeoutMs: this.#shape.web.drainTimeoutMs,
        labels: { address: front },
        address: [
          `http://${host}:${plain.port}`,
          ...encrypted.map(({ port }) => `https://${host}:${port}`),
        ].join(' '),
      }),
    );
    const revision = this.#desired.balancerRevision;
    this.#now.balancers.push({ name, address: front, revision });
  }

  /** A new worker reads the file and takes over, the old one finishes what it has. */
  async #reloadBalancer(name: string): Promise<void> {
    const { deployment, machine } = this.#context;
    const { tls } = this.#shape.balancer!;
    if (tls) await prepareCertificate(deployment, tls.certificate);
    await writeKeepalivedConfigs(deployment, this.#shape);
    await writeBalancerConfig(deployment, name, this.#settings(name));
    await machine.signal(name, 'SIGUSR2');
    const deadline = performance.now() + RELOAD_TIMEOUT_MS;
    const runtime = this.#runtime(name);
    while ((await runtime.revision().catch(() => '')) !== this.#desired.balancerRevision) {
      if (performance.now() > deadline) throw new ReloadFailed(name);
      await delay(RELOAD_POLL_MS);
    }
    this.#now.balancers.find(balancer => balancer.name === name)!.revision =
      this.#desired.balancerRevision;
  }

  async #stopBalancer(name: string): Promise<void> {
    await this.#context.machine.stop(name);
    const { balancers } = this.#now;
    balancers.splice(
      balancers.findIndex(balancer => balancer.name === name),
      1,
    );
  }

  async #startAutoscaler(): Promise<void> {
    const { machine, deployment, environment } = this.#context;
    await machine.stop(AUTOSCALER);
    await machine.start(autoscalerUnit(deployment.paths.app, environment));
  }

  async #writeConfigs(): Promise<void> {
    for (const { name } of this.#now.balancers) {
      await writeBalancerConfig(this.#context.deployment, name, this.#settings(name));
    }
  }

  /** @param front the sockets that it serves: one without TLS has no socket for it */
  #settings(name: string, front = this.#frontOf(name)) {
    const joined = this.#now.servers.filter(server => server.joined);
    const servers = joined.map(server => this.#balanced(server.name));
    const { balancerRevision } = this.#desired;
    const settings = balancerSettings(
      this.#context.deployment,
      name,
      this.#shape,
      balancerRevision,
      servers,
    );
    return hasTls(front) ? settings : { ...settings, tls: undefined };
  }

  #frontOf(name: string): string {
    return this.#now.balancers.find(balancer => balancer.name === name)?.address ?? '';
  }

  #balanced(name: string): BalancedServer {
    const port = this.#now.ports.get(name) ?? 0;
    return { name, host: LOOPBACK, port, weight: this.#server(name).weight };
  }

  #server(name: string) {
    const server = this.#now.servers.find(found => found.name === name);
    if (!server) throw new Error(`the plan names ${name}, which does not run`);
    return server;
  }

  #runtime(balancer: string): HaproxyRuntime {
    return new HaproxyRuntime(runtimeSocket(this.#context.deployment, balancer));
  }
}
