/**
 * The journal of operations: what was asked for, how far it came, how it ended.
 *
 * Holds true here:
 * - One operation runs at a time: its controller holds an advisory lock on a connection of its own, which
 *   PostgreSQL gives back when the controller is gone, however it went.
 * - An operation that says `running` while nobody holds the lock was cut off. It can be resumed (its goal is
 *   in the journal, and a plan is made anew from what runs) or undone (so is what was before).
 */
import { hostname } from 'node:os';
import pg from 'pg';
import { BanyanError, hasCode } from '../../errors.ts';
import { type Catalog, OPERATION_LOCK } from '../catalog.ts';

/** How long to wait for the operation before. */
const LOCK_PATIENCE_MS = 2_000;

export type OperationState = 'running' | 'done' | 'failed' | 'undone';

export interface JournaledStep {
  what: string;
  ms: number;
}

export interface Operation<Goal = unknown> {
  id: number;
  /** `scale`, `apply`, `release`, … */
  kind: string;
  summary: string;
  /** What was before; undefined when nothing was. */
  before: Goal | undefined;
  after: Goal;
  state: OperationState;
  steps: JournaledStep[];
  error: string | undefined;
  /** Who carried it out: host and pid. */
  controller: string;
  startedAt: Date;
  endedAt: Date | undefined;
}

export class OperationUnderWay extends BanyanError {
  constructor(what: string) {
    super('OPERATION_UNDER_WAY', {
      what: `Another operation is under way: ${what}`,
      where: 'banyan operations',
      remedy: 'Wait for it to end; `banyan operations` shows how far it is',
    });
  }
}

export class OperationCutOff extends BanyanError {
  constructor({ id, summary }: Operation) {
    super('OPERATION_CUT_OFF', {
      what: `Operation ${id} (${summary}) was cut off in the middle; everything that runs goes on as it is`,
      where: 'banyan operations',
      remedy: 'Finish it with `banyan resume`, or take it back with `banyan undo`',
    });
  }
}

interface Row {
  id: string;
  kind: string;
  summary: string;
  before: unknown;
  after: unknown;
  state: OperationState;
  steps: JournaledStep[];
  error: string | null;
  controller: string;
  started_at: Date;
  ended_at: Date | null;
}

export class Journal {
  readonly #catalog: Catalog;

  constructor(catalog: Catalog) {
    this.#catalog = catalog;
  }

  /**
   * Runs `body` while no other operation can.
   * @throws OperationUnderWay
   */
  async exclusively<T>(url: string, body: () => Promise<T>): Promise<T> {
    const client = new pg.Client({ connectionString: url, application_name: 'banyan operation' });
    client.on('error', () => {});
    await client.connect();
    try {
      // A controller that was killed a moment ago may still have its session.
      await client.query(`set lock_timeout = ${LOCK_PATIENCE_MS}`);
      await client.query('select pg_advisory_lock($1)', [OPERATION_LOCK]).catch(async error => {
        if (!hasCode(error, '55P03')) throw error;
        throw new OperationUnderWay((await this.unfinished())?.summary ?? 'it has just begun');
      });
      return await body();
    } finally {
      // The end of the session gives the lock back.
      await client.end().catch(() => {});
    }
  }

  async begin<Goal>(
    kind: string,
    summary: string,
    before: Goal | undefined,
    after: Goal,
  ): Promise<number> {
    const { rows } = await this.#catalog.pool.query<{ id: string }>(
      `insert into banyan.operations (kind, summary, before, after, state, controller)
       values ($1, $2, $3, $4, 'running', $5) returning id`,
      [kind, summary, before ? JSON.stringify(before) : null, JSON.stringify(after), controller()],
    );
    return Number(rows[0]!.id);
  }

  async stepDone(id: number, step: JournaledStep): Promise<void> {
    await this.#catalog.pool.query(
      'update banyan.operations set steps = steps || $2::jsonb where id = $1',
      [id, JSON.stringify(step)],
    );
  }

  /** Takes a cut-off operation over, before it is resumed. */
  async takeOver(id: number): Promise<void> {
    await this.#catalog.pool.query('update banyan.operations set controller = $2 where id = $1', [
      id,
      controller(),
    ]);
  }

  async end(id: number, state: Exclude<OperationState, 'running'>, error?: string): Promise<void> {
    await this.#catalog.pool.query(
      'update banyan.operations set state = $2, error = $3, ended_at = now() where id = $1',
      [id, state, error ?? null],
    );
  }

  /** The operation that has not ended: it runs, or it was cut off. */
  async unfinished<Goal>(): Promise<Operation<Goal> | undefined> {
    return (await this.#select<Goal>(`where state = 'running' order by id desc limit 1`))[0];
  }

  async last<Goal>(count: number): Promise<Operation<Goal>[]> {
    return this.#select<Goal>(`order by id desc limit ${Math.floor(count)}`);
  }

  async #select<Goal>(rest: string): Promise<Operation<Goal>[]> {
    const { rows } = await this.#catalog.pool.query<Row>(`select * from banyan.operations ${rest}`);
    return rows.map(row => ({
      id: Number(row.id),
      kind: row.kind,
      summary: row.summary,
      before: (row.before ?? undefined) as Goal | undefined,
      after: row.after as Goal,
      state: row.state,
      steps: row.steps,
      error: row.error ?? undefined,
      controller: row.controller,
      startedAt: row.started_at,
      endedAt: row.ended_at ?? undefined,
    }));
  }
}

function controller(): string {
  return `${hostname()} pid ${process.pid}`;
}
