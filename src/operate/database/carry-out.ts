/**
 * Carries the steps of a plan for the database tier out.
 *
 * Holds true here:
 * - Each step may be done twice: a controller that was killed between doing and noting does it again.
 * - A node is written down before it is started, and forgotten after it was removed: a start of everything
 *   never misses one.
 */

import { isDeepStrictEqual } from 'node:util';
import { clusterSettings } from '../../engines/patroni-config.ts';
import { SUPERUSER } from '../../engines/postgres.ts';
import { readRuntimeMap } from '../../map/map-file.ts';
import type { Member } from '../../map/runtime-map.ts';
import { pollUntil } from '../poll.ts';
import { membersOf, primaryOf, standingsOf } from './cluster.ts';
import { ClusterHome, newClusterRecord } from './cluster-home.ts';
import { type DatabaseContext, recordOf } from './context.ts';
import { applyCopies, keepCopiesAfterMove } from './copies/apply.ts';
import { EMBEDDED_UNIT, retireEmbedded, startEmbeddedDatabase } from './embedded.ts';
import { publishMembers } from './hold.ts';
import { connectTo, open } from './move/cut-over.ts';
import { clearMove, copyAndFollow } from './move/move.ts';
import type { MoveEnd } from './move/schema.ts';
import type { DatabaseStep } from './plan.ts';
import { shardUrls } from './primary.ts';
import { provision, withClient } from './provision.ts';
import { type ClusterRecord, type DatabaseRecord, writeDatabaseRecord } from './record.ts';
import { DATA_CENTRE, superuserUrl } from './running.ts';
import type { ClusterShape, DatabaseShape } from './shape.ts';
import { declareOnline } from './sharding/declare.ts';
import { restartNodes, switchOver } from './switch-over.ts';

/** Patroni reads its settings once a second. */
const SETTINGS_TIMEOUT_MS = 15_000;
/** A replica has its copy when it is ready, and follows a moment later. */
const STREAMING_TIMEOUT_MS = 60_000;

export class DatabaseTier {
  readonly #context: DatabaseContext;
  readonly #shape: DatabaseShape;
  readonly #note: (text: string) => void;

  constructor(context: DatabaseContext, shape: DatabaseShape, note: (text: string) => void) {
    this.#context = context;
    this.#shape = shape;
    this.#note = note;
  }

  async carryOut(step: DatabaseStep): Promise<void> {
    switch (step.do) {
      case 'start-etcd':
        return this.#startEtcd(step.names);
      case 'stop-etcd':
        return this.#stopEtcd(step.names);
      case 'start-node':
        return this.#startNode(step.name);
      case 'add-member':
        return this.#addMember(step.name);
      case 'drop-member':
        return this.#dropMember(step.name);
      case 'remove-node':
        return this.#removeNode(step.name);
      case 'configure':
        return this.#configure();
      case 'restart-nodes':
        return restartNodes(this.#context, await this.#home(), this.#cluster(), this.#wanted());
      case 'switch-over':
        return switchOver(this.#context, await this.#home(), this.#cluster(), step.to);
      case 'start-embedded':
        return this.#startEmbedded();
      case 'move':
        return this.#move(step.to);
      case 'clear-move':
        return this.#clearMove();
      case 'stop-embedded':
        await this.#context.machine.stop(EMBEDDED_UNIT);
        return retireEmbedded(this.#context.deployment);
      case 'declare':
        return this.#declare();
    }
  }

  async #startEtcd(names: string[]): Promise<void> {
    const { machine, deployment } = this.#context;
    const home = await this.#home();
    const record = this.#record();
    let { cluster } = record;
    if (!cluster) {
      cluster = await newClusterRecord(
        home,
        deployment,
        { etcd: names, nodes: [] },
        this.#wanted().settings,
      );
      await this.#write({ ...record, cluster });
    }
    const members = cluster.etcd.filter(({ name }) => names.includes(name));
    for (const { name } of members) await machine.stop(name);
    await Promise.all(members.map(member => home.startEtcd(machine, cluster, member)));
  }

  async #stopEtcd(names: string[]): Promise<void> {
    const home = await this.#home();
    for (const name of names) {
      await this.#context.machine.stop(name);
      await home.forget(name);
    }
    const { cluster: _gone, ...rest } = this.#record();
    await this.#write(rest);
  }

  async #startNode(name: string): Promise<void> {
    const { machine } = this.#context;
    const home = await this.#home();
    let cluster = this.#cluster();
    let node = cluster.nodes.find(each => each.name === name);
    // Left by a controller that was killed, or half started.
    await machine.stop(name);
    if (!node) {
      node = await home.newNode(name);
      cluster = { ...cluster, nodes: [...cluster.nodes, node] };
      await this.#write({ ...this.#record(), cluster });
    }
    this.#note(`${name} copies the database`);
    await home.startNode(machine, cluster, node);
    const primary = await primaryOf(home, cluster);
    if (primary.name === name) return;
    await pollUntil(STREAMING_TIMEOUT_MS, async () => {
      const standing = (await standingsOf(home, cluster)).find(each => each.name === name);
      return standing?.state === 'running' || standing?.state === 'streaming' ? true : undefined;
    });
  }

  #addMember(name: string): Promise<void> {
    const node = this.#cluster().nodes.find(each => each.name === name)!;
    const { host, port } = node;
    const others = this.#membersWithout(name);
    return this.#publishMembers([...others, { host, port, dataCentre: DATA_CENTRE }]);
  }

  #dropMember(name: string): Promise<void> {
    return this.#publishMembers(this.#membersWithout(name));
  }

  #publishMembers(members: Member[]): Promise<void> {
    const { deployment, shard } = this.#context;
    return publishMembers(deployment.paths, members, undefined, shard);
  }

  #membersWithout(name: string): Member[] {
    const node = this.#cluster().nodes.find(each => each.name === name);
    const { deployment, shard = 0 } = this.#context;
    const { members } = readRuntimeMap(deployment.paths.map).database.shards[shard]!;
    return members.filter(({ host, port }) => host !== node?.host || port !== node.port);
  }

  async #removeNode(name: string): Promise<void> {
    const home = await this.#home();
    await this.#context.machine.stop(name);
    const record = this.#record();
    if (record.cluster) {
      const nodes = record.cluster.nodes.filter(each => each.name !== name);
      await this.#write({ ...record, cluster: { ...record.cluster, nodes } });
    }
    await home.forget(name);
  }

  /** What needs no restart counts at once; what does is `pending` at each node from then on. */
  async #configure(): Promise<void> {
    const home = await this.#home();
    const cluster = this.#cluster();
    const { settings } = this.#wanted();
    const primary = await primaryOf(home, cluster);
    const api = await home.api(primary);
    const repository = await home.repository(settings);
    const wanted = clusterSettings(settings, repository?.archiveCommand);
    const { parameters } = wanted.postgresql;
    // A setting that is named no more has to be taken out by its name.
    const present = (await api.config()) as {
      postgresql?: { parameters?: Record<string, unknown> };
    };
    const before = present.postgresql?.parameters ?? {};
    const gone = Object.keys(before).filter(name => !(name in parameters));
    const loaded = await this.#loadTimes(cluster);
    await api.patchConfig({
      ...wanted,
      postgresql: {
        ...wanted.postgresql,
        parameters: { ...Object.fromEntries(gone.map(name => [name, null])), ...parameters },
      },
    });
    await this.#write({ ...this.#record(), cluster: { ...cluster, settings } });
    // By then each node knows whether it has to be restarted.
    if (isDeepStrictEqual(before, parameters)) return;
    await pollUntil(SETTINGS_TIMEOUT_MS, async () => {
      const now = await this.#loadTimes(cluster);
      return now.every((time, index) => time !== loaded[index]) || undefined;
    });
  }

  /** When each node last read its settings. */
  #loadTimes({ nodes }: ClusterRecord): Promise<string[]> {
    return Promise.all(
      nodes.map(node =>
        withClient(superuserUrl(this.#context.deployment, node, 'postgres'), async client => {
          const { rows } = await client.query<{ at: string }>(
            'select pg_conf_load_time()::text as at',
          );
          return rows[0]!.at;
        }),
      ),
    );
  }

  async #startEmbedded(): Promise<void> {
    const { machine, deployment, embeddedTier } = this.#context;
    await machine.stop(EMBEDDED_UNIT);
    await retireEmbedded(deployment);
    const { members } = await startEmbeddedDatabase(machine, deployment, embeddedTier());
    await this.#write({ ...recordOf(deployment), embedded: members[0]! });
  }

  async #move(to: 'cluster' | 'embedded'): Promise<void> {
    const { machine, deployment } = this.#context;
    const home = await this.#home();
    const [embedded, cluster] = await this.#ends(home);
    const [from, target] = to === 'cluster' ? [embedded, cluster] : [cluster, embedded];
    await provision(deployment, target);
    const { open: unsettled, tables } = await copyAndFollow(
      home.postgres,
      from,
      target,
      deployment.database,
      { copying: ({ copied, tables: all }) => this.#note(`${copied} of ${all} tables copied`) },
    );
    this.#note(`${tables} tables compared; switching`);
    const record = recordOf(deployment);
    const { host, port } = target;
    const members =
      to === 'cluster' ? membersOf(this.#cluster()) : [{ host, port, dataCentre: DATA_CENTRE }];
    const heldMs = await machine.cutOver({
      from,
      to: target,
      open: unsettled,
      record: { ...record, serving: to },
      members,
    });
    this.#note(`writes were held for ${Math.round(heldMs)} ms`);
  }

  async #clearMove(): Promise<void> {
    const { deployment } = this.#context;
    const ends = await this.#ends(await this.#home());
    await clearMove(...ends);
    // A supervisor that died in the middle of the switch left it closed.
    const serving = ends[recordOf(deployment).serving === 'embedded' ? 0 : 1];
    const client = await connectTo(serving);
    try {
      await open(client, serving.database);
    } finally {
      await client.end();
    }
    await keepCopiesAfterMove(deployment);
  }

  async #ends(home: ClusterHome): Promise<[embedded: MoveEnd, cluster: MoveEnd]> {
    const primary = await primaryOf(home, this.#cluster());
    return [await this.#embeddedEnd(), this.#end(primary, home.postgres.major)];
  }

  async #embeddedEnd(): Promise<MoveEnd> {
    const { embedded } = recordOf(this.#context.deployment);
    const at =
      embedded ??
      readRuntimeMap(this.#context.deployment.paths.map).database.shards[0]!.members[0]!;
    const major = await withClient(
      superuserUrl(this.#context.deployment, at, 'postgres'),
      async client => {
        const { rows } = await client.query<{ version: number }>(
          `select current_setting('server_version_num')::int / 10000 as version`,
        );
        return rows[0]!.version;
      },
    );
    return this.#end(at, major);
  }

  #end({ host, port }: { host: string; port: number }, major: number): MoveEnd {
    const { database, secrets } = this.#context.deployment;
    return { host, port, user: SUPERUSER, password: secrets.superuserPassword, database, major };
  }

  async #declare(): Promise<void> {
    const { deployment } = this.#context;
    const declaration = this.#shape.kind === 'external' ? undefined : this.#shape.declaration;
    const done = await declareOnline(
      deployment,
      await shardUrls(deployment),
      declaration ?? { tables: {}, unique: [] },
    );
    if (done) this.#note(done);
    const copies = await applyCopies(this.#context.machine, deployment, process.env);
    if (copies) this.#note(copies);
  }

  #home(): Promise<ClusterHome> {
    return ClusterHome.open(this.#context.deployment);
  }

  #cluster(): ClusterRecord {
    const { cluster } = this.#record();
    if (!cluster)
      throw new Error('the plan is for a replicated database, and none is written down');
    return cluster;
  }

  #wanted(): ClusterShape {
    if (this.#shape.kind !== 'cluster') throw new Error('the shape is not a replicated database');
    return this.#shape;
  }

  #record(): DatabaseRecord {
    return recordOf(this.#context.deployment, this.#context.shard);
  }

  #write(record: DatabaseRecord): Promise<void> {
    return writeDatabaseRecord(this.#context.deployment, record, this.#context.shard);
  }
}
