/** What is asked of a RabbitMQ node, or told it, by RabbitMQ's own command line. Each call takes a second. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { BanyanError } from '../errors.ts';
import type { Account } from '../machines/unit.ts';
import { findRabbitMq, nodeName, rabbitMqEnv } from './rabbitmq.ts';

const TIMEOUT_MS = 60_000;

/** Erlang. A queue without a leader has no count: it fails. */
const COUNT_MESSAGES = `lists:sum([
  case amqqueue:get_type(Q) of
    rabbit_quorum_queue ->
      {ok, Count, _} = ra:consistent_query(amqqueue:get_pid(Q), fun rabbit_fifo:query_messages_total/1),
      Count;
    _ -> proplists:get_value(messages, rabbit_amqqueue:info(Q, [messages]), 0)
  end || Q <- rabbit_amqqueue:list()]).`;

export class RabbitMqRefused extends BanyanError {
  constructor(unit: string, command: string, reason: string, cause: unknown) {
    super('RABBITMQ_REFUSED', {
      what: `RabbitMQ did not do \`${command}\`: ${reason}`,
      where: unit,
      remedy: `See \`banyan logs ${unit}\`, and try again`,
      cause,
    });
  }
}

export interface RabbitMqHandle {
  /** The unit's. */
  name: string;
  folder: string;
  epmdPort: number;
  account: Account | undefined;
}

export interface ClusterMembers {
  /** Units' names. */
  all: string[];
  running: string[];
}

export class RabbitMqControl {
  readonly #handle: RabbitMqHandle;

  constructor(handle: RabbitMqHandle) {
    this.#handle = handle;
  }

  /** Who belongs to its cluster. */
  async members(): Promise<ClusterMembers> {
    const text = await this.run('rabbitmqctl', ['cluster_status', '--formatter', 'json']);
    const { disk_nodes, running_nodes } = JSON.parse(text) as {
      disk_nodes: string[];
      running_nodes: string[];
    };
    return { all: disk_nodes.map(unitOf), running: running_nodes.map(unitOf) };
  }

  /** How many copies each quorum queue has, by its name. */
  async copies(): Promise<Map<string, string[]>> {
    const text = await this.run('rabbitmqctl', [
      'list_queues',
      'name',
      'members',
      '--quiet',
      '--formatter',
      'json',
    ]);
    const rows = JSON.parse(text) as { name: string; members: string[] | '' }[];
    return new Map(rows.map(({ name, members }) => [name, (members || []).map(unitOf)]));
  }

  /**
   * How many messages there are, in all queues, in hand or not. Asked from each queue's leader: what `list_queues` prints is as old as
   * five seconds, and a node that seems empty is taken away.
   */
  async messages(): Promise<number> {
    return Number(await this.run('rabbitmqctl', ['eval', COUNT_MESSAGES, '--quiet']));
  }

  /**
   * From now on nothing is published, by nobody: not by who looked at the map before it changed, and stood still since. Messages are
   * still delivered and acknowledged. Connections are closed, since a channel remembers what it was allowed; they come back.
   */
  async fence(user: string): Promise<void> {
    await this.#allow(user, { publishing: false });
    await this.run('rabbitmqctl', ['close_all_connections', 'the queue moves', '--quiet']);
  }

  /** Takes a fence away. */
  async admit(user: string): Promise<void> {
    await this.#allow(user, { publishing: true });
  }

  async #allow(user: string, { publishing }: { publishing: boolean }): Promise<void> {
    const mayChange = publishing ? '.*' : '^$';
    // Configure, write, read.
    await this.run('rabbitmqctl', ['set_permissions', user, mayChange, mayChange, '.*', '--quiet']);
  }

  /** Gives each queue a copy on the node of `unit`, unless it has one. */
  async growTo(unit: string): Promise<void> {
    await this.run('rabbitmq-queues', ['grow', nodeName(unit), 'all', '--quiet']);
  }

  /** Takes the copies from the node of `unit`; who led there is followed by another. */
  async shrinkFrom(unit: string): Promise<void> {
    await this.run('rabbitmq-queues', ['shrink', nodeName(unit), '--quiet']);
  }

  /** One that has been stopped belongs to the cluster no more. */
  async forget(unit: string): Promise<void> {
    await this.run('rabbitmqctl', ['forget_cluster_node', nodeName(unit)]);
  }

  /** @returns what one of RabbitMQ's programs prints. @throws RabbitMqRefused */
  async run(program: string, args: string[]): Promise<string> {
    const { name, folder, epmdPort, account } = this.#handle;
    try {
      const { stdout } = await promisify(execFile)(findRabbitMq(program), args, {
        ...account,
        cwd: folder,
        env: rabbitMqEnv(name, folder, epmdPort),
        timeout: TIMEOUT_MS,
        maxBuffer: 64 * 1024 * 1024,
      });
      return stdout;
    } catch (error) {
      const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
      const words = `${stderr}\n${stdout}`.split('\n').map(line => line.trim());
      const reason = words.filter(Boolean).slice(0, 3).join(' ') || (error as Error).message;
      throw new RabbitMqRefused(name, `${program} ${args[0]}`, reason, error);
    }
  }
}

function unitOf(node: string): string {
  return node.split('@', 1)[0]!;
}
