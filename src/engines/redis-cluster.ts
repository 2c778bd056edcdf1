/**
 * Makes Redis servers into a Redis Cluster of a wanted form, whatever form they have now.
 *
 * Holds true here:
 * - Each part may be done again: what is there already is left alone. Who was cut off begins anew.
 * - **A slot moves empty.** What is in it is a cache; keys that move one by one would make the store's scripts fail for as
 *   long as it takes (app/cache/README.md).
 * - A node that is to leave holds no slots before it is forgotten.
 *
 * (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/)
 */
import { setTimeout as delay } from 'node:timers/promises';
import { BanyanError } from '../errors.ts';
import type { RedisNode } from './redis.ts';
import { openRedis, type RedisClient } from './redis-client.ts';

export const SLOTS = 16_384;

/** Gossip reaches everyone within a few rounds of a second each. */
const AGREE_MS = 30_000;
const LOOK_MS = 50;
/** Keys that are deleted at a time. */
const DELETED_AT_A_TIME = 500;

export class ClusterDoesNotAgree extends BanyanError {
  constructor(what: string, nodes: readonly RedisNode[]) {
    super('CACHE_CLUSTER_DOES_NOT_AGREE', {
      what: `The nodes of the Redis Cluster did not come to agree within ${AGREE_MS / 1_000} s: ${what}`,
      where: nodes.map(({ name }) => name).join(', '),
      remedy: 'See `banyan logs cache-1` and its like; `banyan resume` tries again',
    });
  }
}

/** One node as another, or itself, sees it. */
export interface SeenNode {
  id: string;
  port: number;
  isMaster: boolean;
  /** Of whom it is a replica. */
  masterId: string | undefined;
  isSelf: boolean;
  failed: boolean;
  slots: [from: number, to: number][];
}

/** `CLUSTER NODES`. Pure. */
export function parseClusterNodes(text: string): SeenNode[] {
  return text
    .split('\n')
    .filter(line => line.trim() !== '')
    .map(line => {
      const [id = '', address = '', flags = '', master = '-', , , , , ...slots] = line.split(' ');
      const marks = flags.split(',');
      return {
        id,
        port: Number(/:(\d+)@/.exec(address)?.[1] ?? 0),
        isMaster: marks.includes('master'),
        masterId: master === '-' ? undefined : master,
        isSelf: marks.includes('myself'),
        failed: marks.some(mark => /^(fail\??|noaddr|handshake)$/.test(mark)),
        // In brackets are slots on their way.
        slots: slots
          .filter(slot => /^\d/.test(slot))
          .map(slot => {
            const [from, to = from] = slot.split('-').map(Number);
            return [from!, to!] as [number, number];
          }),
      };
    });
}

/** Which part of all slots each of `count` masters has: `[first, last]`. Pure. */
export function partsOf(count: number): [from: number, to: number][] {
  return Array.from({ length: count }, (_, index) => [
    Math.ceil((SLOTS * index) / count),
    Math.ceil((SLOTS * (index + 1)) / count) - 1,
  ]);
}

/**
 * Who is to be a master: who has slots stays one as far as possible, in the order of what they hold, so that few slots move.
 * Pure.
 */
export function chooseMasters(
  staying: readonly { name: string; isMaster: boolean; slots: readonly [number, number][] }[],
  count: number,
): string[] {
  const held = ({ slots }: (typeof staying)[number]) =>
    slots.reduce((sum, [from, to]) => sum + to - from + 1, 0);
  const first = ({ slots }: (typeof staying)[number]) => slots[0]?.[0] ?? SLOTS;
  return staying
    .map((node, index) => ({ node, index }))
    .sort(
      (a, b) =>
        held(b.node) - held(a.node) ||
        Number(b.node.isMaster) - Number(a.node.isMaster) ||
        a.index - b.index,
    )
    .slice(0, count)
    .sort((a, b) => first(a.node) - first(b.node) || a.index - b.index)
    .map(({ node }) => node.name);
}

/** Who copies whom, by names: each replica stays with its master while that needs one. Pure. */
export function assignReplicas(
  masters: readonly string[],
  replicas: readonly { name: string; of: string | undefined }[],
): Map<string, string> {
  const most = Math.ceil(replicas.length / Math.max(1, masters.length));
  const count = new Map(masters.map(name => [name, 0]));
  const assigned = new Map<string, string>();
  const give = (name: string, master: string) => {
    assigned.set(name, master);
    count.set(master, count.get(master)! + 1);
  };
  for (const { name, of } of replicas) {
    if (of !== undefined && (count.get(of) ?? most) < most) give(name, of);
  }
  for (const { name } of replicas) {
    if (assigned.has(name)) continue;
    const [fewest] = [...count].sort(([, a], [, b]) => a - b);
    if (fewest) give(name, fewest[0]);
  }
  return assigned;
}

interface Moving {
  slot: number;
  /** The node's id. */
  owner: string;
}

interface Member {
  node: RedisNode;
  client: RedisClient;
  id: string;
}

export class RedisCluster {
  readonly #members: Member[];

  private constructor(members: Member[]) {
    this.#members = members;
  }

  /** Runs `body` with connections to all these nodes. @throws what connecting throws */
  static async with<T>(
    nodes: readonly RedisNode[],
    password: string,
    body: (cluster: RedisCluster) => Promise<T>,
  ): Promise<T> {
    const members: Member[] = [];
    try {
      for (const node of nodes) {
        const client = await openRedis({ host: node.host, port: node.port, password });
        const id = String(await client.sendCommand(['CLUSTER', 'MYID']));
        members.push({ node, client, id });
      }
      return await body(new RedisCluster(members));
    } finally {
      for (const { client } of members) client.destroy();
    }
  }

  /**
   * Makes `masters` masters of the staying nodes, each with its part of the slots, and all others their replicas; nodes that
   * are `leaving` have nothing any more and are forgotten.
   * @throws ClusterDoesNotAgree
   */
  async arrange(masters: number, leaving: readonly string[] = []): Promise<void> {
    const staying = this.#members.filter(({ node }) => !leaving.includes(node.name));
    await this.#meet(staying);
    const views = await Promise.all(this.#members.map(async each => this.#self(each)));
    const viewOf = new Map(this.#members.map((each, index) => [each.node.name, views[index]!]));
    const chosen = chooseMasters(
      staying.map(({ node }) => ({ ...viewOf.get(node.name)!, name: node.name })),
      masters,
    );
    for (const name of chosen) {
      if (!viewOf.get(name)!.isMaster) await this.#promote(this.#member(name), staying);
    }
    await this.#spread(chosen.map(name => this.#member(name)));
    const assigned = await this.#replicate(staying, chosen);
    await this.#forget(leaving);
    await this.#forgetLost(staying);
    await this.#untilWell(staying, chosen, assigned);
  }

  /** What each of them sees itself as. */
  async #self({ client }: Member): Promise<SeenNode> {
    const seen = parseClusterNodes(String(await client.sendCommand(['CLUSTER', 'NODES'])));
    return seen.find(({ isSelf }) => isSelf)!;
  }

  async #seenBy({ client }: Member): Promise<SeenNode[]> {
    return parseClusterNodes(String(await client.sendCommand(['CLUSTER', 'NODES'])));
  }

  #member(name: string): Member {
    const member = this.#members.find(({ node }) => node.name === name);
    if (!member) throw new Error(`no connection to ${name}`);
    return member;
  }

  /** Everyone comes to know everyone. */
  async #meet(staying: readonly Member[]): Promise<void> {
    await this.#until(
      'they do not all know each other',
      async () => {
        let isComplete = true;
        for (const member of this.#members) {
          const known = new Set(
            (await this.#seenBy(member)).filter(({ failed }) => !failed).map(({ id }) => id),
          );
          for (const { node, id } of staying) {
            if (known.has(id)) continue;
            isComplete = false;
            // Handshakes that are under way are not disturbed by another one.
            await member.client.sendCommand([
              ...['CLUSTER', 'MEET', node.host, String(node.port)],
              ...(node.busPort === undefined ? [] : [String(node.busPort)]),
            ]);
          }
        }
        return isComplete;
      },
      500,
    );
  }

  /** Makes a replica an empty master. */
  async #promote(member: Member, staying: readonly Member[]): Promise<void> {
    await member.client.sendCommand(['CLUSTER', 'RESET', 'SOFT']);
    await this.#meet(staying);
  }

  /** Gives each master its part; slots that another has move, empty. */
  async #spread(masters: readonly Member[]): Promise<void> {
    const owners = await this.#owners();
    const told = await this.#masters(masters);
    for (const [index, [from, to]] of partsOf(masters.length).entries()) {
      const target = masters[index]!;
      const free: number[] = [];
      const moving: Moving[] = [];
      for (let slot = from; slot <= to; slot++) {
        const owner = owners.get(slot);
        if (owner === undefined) free.push(slot);
        else if (owner !== target.id) moving.push({ slot, owner });
      }
      if (free.length > 0) {
        const ranges = rangesOf(free).flatMap(([a, b]) => [String(a), String(b)]);
        await target.client.sendCommand(['CLUSTER', 'ADDSLOTSRANGE', ...ranges]);
      }
      for (const batch of chunks(moving, 256)) await this.#move(batch, target, told);
    }
  }

  /** Who has which slot: what each says of itself counts most, then what is said of those that are lost. */
  async #owners(): Promise<Map<number, string>> {
    const owners = new Map<number, string>();
    const claim = ({ id, slots }: SeenNode) => {
      for (const [from, to] of slots)
        for (let slot = from; slot <= to; slot++) owners.set(slot, id);
    };
    const present = new Set(this.#members.map(({ id }) => id));
    for (const member of this.#members) {
      for (const seen of await this.#seenBy(member)) if (!present.has(seen.id)) claim(seen);
    }
    for (const member of this.#members) {
      const self = await this.#self(member);
      if (self.isMaster) claim(self);
    }
    return owners;
  }

  /** Those that may be told who has a slot: replicas refuse it, and hear of it from their masters. */
  async #masters(always: readonly Member[]): Promise<Member[]> {
    const views = await Promise.all(this.#members.map(member => this.#self(member)));
    return this.#members.filter(
      (member, index) => always.includes(member) || views[index]!.isMaster,
    );
  }

  /**
   * The order is the specification's: with the slot open on both sides, what is not in the source any more is asked of the target;
   * the target owns it first.
   */
  async #move(moving: readonly Moving[], target: Member, told: readonly Member[]): Promise<void> {
    const set = (to: Member, slot: number, ...words: string[]) =>
      to.client.sendCommand(['CLUSTER', 'SETSLOT', String(slot), ...words]);
    // The source of a slot may be lost; then there is nothing to empty.
    const found = moving.flatMap(({ slot, owner }) => {
      const source = this.#members.find(({ id }) => id === owner);
      return source ? [{ slot, source }] : [];
    });
    await Promise.all(moving.map(({ slot, owner }) => set(target, slot, 'IMPORTING', owner)));
    await Promise.all(found.map(({ slot, source }) => set(source, slot, 'MIGRATING', target.id)));
    const counts = await Promise.all(
      found.map(({ slot, source }) =>
        source.client.sendCommand(['CLUSTER', 'COUNTKEYSINSLOT', String(slot)]),
      ),
    );
    for (const [index, { slot, source }] of found.entries()) {
      if (Number(counts[index]) > 0) await emptySlot(source.client, slot);
    }
    for (const member of [target, ...told.filter(each => each !== target)]) {
      await Promise.all(moving.map(({ slot }) => set(member, slot, 'NODE', target.id)));
    }
  }

  /** @returns who copies whom */
  async #replicate(
    staying: readonly Member[],
    masters: readonly string[],
  ): Promise<Map<string, string>> {
    const views = new Map<string, SeenNode>();
    for (const member of staying) views.set(member.node.name, await this.#self(member));
    const nameOf = new Map(staying.map(({ id, node }) => [id, node.name]));
    const replicas = staying
      .filter(({ node }) => !masters.includes(node.name))
      .map(({ node: { name } }) => {
        const { masterId } = views.get(name)!;
        return { name, of: masterId && nameOf.get(masterId) };
      });
    const assigned = assignReplicas(masters, replicas);
    for (const [name, master] of assigned) {
      const masterId = this.#member(master).id;
      const { client } = this.#member(name);
      const view = views.get(name)!;
      if (view.masterId === masterId) continue;
      // One with keys would be refused.
      if (view.isMaster) await client.sendCommand(['FLUSHALL']);
      await this.#until(`${name} cannot copy ${master}`, () =>
        client.sendCommand(['CLUSTER', 'REPLICATE', masterId]).then(
          () => true,
          // It has not heard yet that it has no slots, or who the master is.
          () => false,
        ),
      );
    }
    return assigned;
  }

  /** Replicas first: when their master is forgotten, nobody is to take over. */
  async #forget(leaving: readonly string[]): Promise<void> {
    for (const name of leaving) {
      const { id, client } = this.#member(name);
      for (const other of this.#members) {
        if (other.id === id) continue;
        // Unknown already.
        await other.client.sendCommand(['CLUSTER', 'FORGET', id]).catch(() => {});
      }
      await client.sendCommand(['CLUSTER', 'RESET', 'SOFT']).catch(() => {});
    }
  }

  /** Who is known and cannot be one of these: what a crash left. */
  async #forgetLost(staying: readonly Member[]): Promise<void> {
    const known = new Set(this.#members.map(({ id }) => id));
    for (const member of staying) {
      for (const { id } of await this.#seenBy(member)) {
        if (known.has(id)) continue;
        await member.client.sendCommand(['CLUSTER', 'FORGET', id]).catch(() => {});
      }
    }
  }

  /** All see all slots with the masters, and who copies whom; the copies are complete. */
  async #untilWell(
    staying: readonly Member[],
    masters: readonly string[],
    assigned: ReadonlyMap<string, string>,
  ): Promise<void> {
    const ids = masters.map(name => this.#member(name).id);
    const parts = partsOf(ids.length);
    await this.#until('not all see all slots with their masters', async () => {
      for (const member of staying) {
        const seen = await this.#seenBy(member);
        for (const [index, id] of ids.entries()) {
          const [from, to] = parts[index]!;
          const slots = seen.find(each => each.id === id)?.slots ?? [];
          if (!slots.some(([a, b]) => a <= from && b >= to)) return false;
        }
        for (const [name, master] of assigned) {
          const { id } = this.#member(name);
          const masterId = seen.find(each => each.id === id)?.masterId;
          if (masterId !== this.#member(master).id) return false;
        }
        const info = String(await member.client.sendCommand(['INFO', 'replication']));
        if (/role:slave/.test(info) && !/master_link_status:up/.test(info)) return false;
      }
      return true;
    });
  }

  async #until(what: string, look: () => Promise<boolean>, pauseMs = LOOK_MS): Promise<void> {
    const deadline = performance.now() + AGREE_MS;
    while (!(await look())) {
      if (performance.now() > deadline) {
        throw new ClusterDoesNotAgree(
          what,
          this.#members.map(({ node }) => node),
        );
      }
      await delay(pauseMs);
    }
  }
}

/** Markers first: without its marker nothing enters a bucket, and nothing in it is vouched for. */
async function emptySlot(client: RedisClient, slot: number): Promise<void> {
  for (;;) {
    const keys = (await client.sendCommand([
      'CLUSTER',
      'GETKEYSINSLOT',
      String(slot),
      String(DELETED_AT_A_TIME),
    ])) as unknown as string[];
    if (keys.length === 0) return;
    const markers = keys.filter(key => key.endsWith(':m'));
    // Opened for the way out, a key that is not there any more is no reason to stop.
    await client.sendCommand(['UNLINK', ...markers, ...keys.filter(key => !key.endsWith(':m'))]);
  }
}

function rangesOf(slots: readonly number[]): [number, number][] {
  const ranges: [number, number][] = [];
  for (const slot of slots) {
    const last = ranges.at(-1);
    if (last && last[1] === slot - 1) last[1] = slot;
    else ranges.push([slot, slot]);
  }
  return ranges;
}

function chunks<T>(list: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(list.length / size) }, (_, index) =>
    list.slice(index * size, (index + 1) * size),
  );
}
