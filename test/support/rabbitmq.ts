/**
 * Real RabbitMQ nodes for a test file, in one line, and a runtime map that names them:
 *
 *     const rabbit = await TestRabbitMq.start(1);   // in beforeAll; remove() in afterAll
 *
 * They run as in production: the same engine and machine code.
 */
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { QUEUE_URL_VARIABLE } from '../../src/app/environment.ts';
import { isRoot, unprivilegedAccount } from '../../src/engines/account.ts';
import { ENGINES } from '../../src/engines/engines.ts';
import { epmdUnit, prepareRabbitMq, type RabbitMqNode } from '../../src/engines/rabbitmq.ts';
import { RabbitMqControl } from '../../src/engines/rabbitmq-control.ts';
import { freePort, onFreePort } from '../../src/machines/free-port.ts';
import { LocalMachine } from '../../src/machines/local.ts';
import { changeRuntimeMap, MAP_VARIABLE, publishRuntimeMap } from '../../src/map/map-file.ts';
import { temporaryFolder } from './deployment.ts';

const HOST = '127.0.0.1';
const USER = 'tester';
const PASSWORD = randomBytes(16).toString('hex');

export class TestRabbitMq {
  readonly nodes: RabbitMqNode[] = [];
  readonly #folder: string;
  readonly #machine: LocalMachine;
  readonly #epmdPort: number;
  readonly #account = isRoot() ? unprivilegedAccount() : undefined;

  private constructor(folder: string, machine: LocalMachine, epmdPort: number) {
    this.#folder = folder;
    this.#machine = machine;
    this.#epmdPort = epmdPort;
  }

  /** @param count how many nodes, one cluster */
  static async start(count: number): Promise<TestRabbitMq> {
    const folder = temporaryFolder();
    const machine = new LocalMachine({
      recordsFolder: path.join(folder, 'records'),
      logFolder: path.join(folder, 'logs'),
      logLimits: { maxFileMb: 10, keepFiles: 1 },
      engines: ENGINES,
    });
    const rabbit = new TestRabbitMq(folder, machine, await freePort());
    try {
      await machine.start(epmdUnit(rabbit.#epmdPort, rabbit.#account));
      for (let number = 1; number <= count; number++) await rabbit.#add(`rabbitmq-${number}`);
      await publishRuntimeMap(rabbit.mapFile, {
        deployment: 'test',
        dataCentre: 'local',
        database: {
          name: 'test',
          shards: [{ id: '1', members: [{ host: HOST, port: 1, dataCentre: 'local' }] }],
        },
        queue: { rabbitmq: { nodes: rabbit.addresses } },
        assets: { baseUrl: '' },
      });
      return rabbit;
    } catch (error) {
      await rabbit.remove();
      throw error;
    }
  }

  get mapFile(): string {
    return path.join(this.#folder, 'map.json');
  }

  get addresses(): { host: string; port: number }[] {
    return this.nodes.map(({ host, port }) => ({ host, port }));
  }

  /** Of its first node, with user and password. */
  get url(): string {
    const { host, port } = this.nodes[0]!;
    return `amqp://${USER}:${PASSWORD}@${host}:${port}`;
  }

  /** What a process has to be told to find it. */
  get env(): Record<string, string> {
    return {
      [MAP_VARIABLE]: this.mapFile,
      [QUEUE_URL_VARIABLE]: `amqp://${USER}:${PASSWORD}@${HOST}`,
    };
  }

  /** Changes what the map says of it. */
  async setMap(queue: { draining?: boolean } | undefined): Promise<void> {
    await changeRuntimeMap(this.mapFile, ({ queue: _before, ...map }) =>
      queue ? { ...map, queue: { rabbitmq: { nodes: this.addresses, ...queue } } } : map,
    );
  }

  control(name = 'rabbitmq-1'): RabbitMqControl {
    return new RabbitMqControl({
      name,
      folder: path.join(this.#folder, name),
      epmdPort: this.#epmdPort,
      account: this.#account,
    });
  }

  /** Changes how much memory a node may use, until it is started again; beyond it there is an alarm, and nobody may publish. */
  async setMemoryLimit(megabytes: number, name = 'rabbitmq-1'): Promise<void> {
    const limit = ['absolute', `${megabytes}MB`];
    await this.control(name).run('rabbitmqctl', ['set_vm_memory_high_watermark', ...limit]);
  }

  /** Nothing is published to it any more. */
  fence(): Promise<void> {
    return this.control().fence(USER);
  }

  admit(): Promise<void> {
    return this.control().admit(USER);
  }

  async pidOf(name: string): Promise<number> {
    const found = (await this.#machine.states()).find(unit => unit.name === name);
    if (!found?.pid) throw new Error(`${name} does not run`);
    return found.pid;
  }

  async isReady(name: string): Promise<boolean> {
    return (await this.#machine.states()).some(
      unit => unit.name === name && unit.phase === 'ready',
    );
  }

  async stop(name: string): Promise<void> {
    await this.#machine.stop(name);
  }

  async remove(): Promise<void> {
    await this.#machine.stopAll();
    await rm(this.#folder, { recursive: true, force: true });
  }

  async #add(name: string): Promise<void> {
    await onFreePort(HOST, freePort, async port => {
      const ports = { port, nodePort: await freePort(), metricsPort: await freePort() };
      const node: RabbitMqNode = { name, host: HOST, ...ports };
      await this.#machine.start(
        await prepareRabbitMq({
          node,
          folder: path.join(this.#folder, name),
          members: [...this.nodes.map(each => each.name), name],
          epmdPort: this.#epmdPort,
          user: USER,
          password: PASSWORD,
          cookie: 'COOKIE',
          memoryMb: 256,
          freeDiskMb: 50,
          labels: {},
          account: this.#account,
        }),
      );
      this.nodes.push(node);
    });
  }
}
