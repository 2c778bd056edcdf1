/**
 * A listening socket that outlives the processes that serve it.
 *
 * It is bound here, before any unit runs, and handed to units as a file descriptor, as systemd does for
 * its socket units. While one process ends and the next begins, connections wait in the kernel's queue
 * instead of being refused; and when a load balancer takes the place of a single web server, both
 * accept from the same queue for a moment, so that not one connection is lost.
 *
 * Node has no public way to bind without accepting: `net._createServerHandle` is what its own cluster
 * module uses for the same purpose (lib/net.js, lib/internal/cluster/shared_handle.js). Where it is
 * missing, units get no descriptor and bind the port themselves.
 */
import { lookup } from 'node:dns/promises';
import net from 'node:net';
import { AddressNotHere, PortInUse, portHolder } from './free-port.ts';
import type { SocketAddress } from './unit.ts';

interface Handle {
  readonly fd: number;
  close(): void;
  getsockname(out: { port?: number }): number;
}

type CreateHandle = (
  host: string,
  port: number,
  addressType: 4 | 6,
  fd: undefined,
  flags: number,
) => Handle | number;

export class ListeningSockets {
  readonly #handles = new Map<string, Handle>();

  /**
   * @returns the port; the one that was asked for unless that was 0
   * @throws PortInUse, AddressNotHere
   */
  async open({ host, port }: SocketAddress): Promise<number> {
    if (port !== 0 && this.#handles.has(addressKey({ host, port }))) return port;
    const create = (net as unknown as { _createServerHandle?: CreateHandle })._createServerHandle;
    if (!create) return port;
    const { address, family } = await lookup(host).catch(error => {
      throw new AddressNotHere(host, (error as Error).message);
    });
    const handle = create(address, port, family === 6 ? 6 : 4, undefined, 0);
    if (typeof handle === 'number') throw new AddressNotHere(host, `the system says ${handle}`);
    const out: { port?: number } = {};
    handle.getsockname(out);
    const taken = out.port ?? 0;
    // libuv keeps "address in use" to itself until somebody listens; the socket then has no port.
    if (taken === 0 || (port !== 0 && taken !== port)) {
      handle.close();
      const remedy = 'Stop what uses it, or choose another with --port or in banyan.config.ts';
      throw new PortInUse(port, host, await portHolder(port), remedy);
    }
    this.#handles.set(addressKey({ host, port: taken }), handle);
    return taken;
  }

  /** The descriptor to hand to a process; undefined when there is none. */
  descriptor({ host, port }: SocketAddress): number | undefined {
    return this.#handles.get(addressKey({ host, port }))?.fd;
  }

  close(address: SocketAddress): void {
    this.#handles.get(addressKey(address))?.close();
    this.#handles.delete(addressKey(address));
  }

  closeAll(): void {
    for (const handle of this.#handles.values()) handle.close();
    this.#handles.clear();
  }
}

export function addressKey({ host, port }: SocketAddress): string {
  return `${host}:${port}`;
}
