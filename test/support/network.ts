/**
 * Machines with a network of their own: Linux namespaces on one bridge, each with an address, between which the
 * network can be cut. Takes root.
 *
 *     const network = Network.create(2);              // remove() in the end
 *     network.machines[0].inside(['node', 'x.js']);   // the command that runs it there
 *     network.cut(network.machines[0], network.machines[1]);
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';

export interface NetworkMachine {
  readonly name: string;
  readonly address: string;
  /** A command that runs another there, as the caller's account. */
  inside(command: string[]): string[];
}

/** An interface's name has 15 characters at most. */
const ID_BYTES = 3;

export class Network {
  readonly #bridge: string;
  readonly #machines: NetworkMachine[] = [];
  /** Of the side that the tests run on. */
  readonly gateway: string;

  private constructor(bridge: string, gateway: string) {
    this.#bridge = bridge;
    this.gateway = gateway;
  }

  static create(count: number): Network {
    const id = randomBytes(ID_BYTES);
    const name = `bn${id.toString('hex')}`;
    // Two runs side by side do not meet: each has a network of its own out of 65,536.
    const subnet = `10.${id[0]}.${id[1]}`;
    const network = new Network(name, `${subnet}.254`);
    ip('link', 'add', name, 'type', 'bridge');
    ip('addr', 'add', `${network.gateway}/24`, 'dev', name);
    ip('link', 'set', name, 'up');
    for (let i = 1; i <= count; i++) network.#add(`${name}-${i}`, `${subnet}.${i}`, i);
    return network;
  }

  get machines(): readonly NetworkMachine[] {
    return this.#machines;
  }

  /** Nothing gets from one to the other any more, in either direction; connections stay open, and silent. */
  cut(one: NetworkMachine, other: NetworkMachine): void {
    ip('-n', one.name, 'route', 'add', 'blackhole', other.address);
    ip('-n', other.name, 'route', 'add', 'blackhole', one.address);
  }

  mend(one: NetworkMachine, other: NetworkMachine): void {
    ip('-n', one.name, 'route', 'del', 'blackhole', other.address);
    ip('-n', other.name, 'route', 'del', 'blackhole', one.address);
  }

  remove(): void {
    for (const { name } of this.#machines) ip('netns', 'del', name);
    ip('link', 'del', this.#bridge);
  }

  #add(name: string, address: string, index: number): void {
    const port = `${this.#bridge}v${index}`;
    ip('netns', 'add', name);
    ip('link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name);
    ip('link', 'set', port, 'master', this.#bridge, 'up');
    ip('-n', name, 'addr', 'add', `${address}/24`, 'dev', 'eth0');
    ip('-n', name, 'link', 'set', 'eth0', 'up');
    ip('-n', name, 'link', 'set', 'lo', 'up');
    this.#machines.push({
      name,
      address,
      inside: command => ['ip', 'netns', 'exec', name, ...command],
    });
  }
}

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });
}
