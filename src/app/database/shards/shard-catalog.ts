/**
 * What the map declares of tables, joined with the schema that the first shard has: where rows are, and which columns
 * are unique across shards.
 *
 * Holds true here:
 * - It fits the map: a new map counts at once, over the schema as it was last read.
 * - The schema is read again after a change by this process, when a statement names what is not known, and every so
 *   often for changes by others.
 */
import type pg from 'pg';
import type { RuntimeMap } from '../../../map/runtime-map.ts';
import { log } from '../../telemetry/log.ts';
import { Placement as Declared } from './declaration/placement.ts';
import { readSchema, type Schema } from './declaration/schema.ts';
import { type PlannerCatalog, placementOf, readPlannerCatalog } from './plan/catalog-placement.ts';
import type { Placement } from './plan/placement.ts';
import { type Unusable, uniqueColumns } from './unique/columns.ts';
import { UniqueKeeper } from './unique/keeper.ts';

const REFRESH_MS = 60_000;

/** What the schema is read through: the pool of the first shard. */
export type SchemaSource = Pick<pg.ClientBase, 'query'>;

export class ShardCatalog {
  readonly #source: SchemaSource;
  readonly #timer: NodeJS.Timeout;
  #map: RuntimeMap;
  #read: { text: string; schema: Schema; planner: PlannerCatalog } | undefined;
  #current: { placement: Placement; unique: UniqueKeeper | undefined } | undefined;
  #version = 0;
  #loading: Promise<void> | undefined;
  /** Rises when the schema was changed by this process: a load that began before does not count. */
  #generation = 0;
  #isStale = false;

  constructor(map: RuntimeMap, source: SchemaSource) {
    this.#map = map;
    this.#source = source;
    this.#timer = setInterval(() => void this.refresh().catch(() => {}), REFRESH_MS).unref();
    this.refresh().catch(() => {});
  }

  /** Undefined when it is there; else to be waited for. @throws what reading the schema throws, InvalidRanges */
  get ready(): Promise<void> | undefined {
    return this.#current && !this.#isStale ? undefined : (this.#loading ?? this.refresh());
  }

  /** Only when it is ready. */
  get placement(): Placement {
    return this.#current!.placement;
  }

  /** In the map's order. */
  get shardIds(): string[] {
    return this.#map.database.shards.map(({ id }) => id);
  }

  /** Undefined when no column is unique across shards. */
  get unique(): UniqueKeeper | undefined {
    return this.#current?.unique;
  }

  /** Another map. @throws InvalidRanges */
  follow(map: RuntimeMap): void {
    this.#map = map;
    if (this.#read) this.#join();
  }

  /** The schema was changed by this process: who comes now waits for the new one. */
  changed(): void {
    this.#generation++;
    this.#isStale = true;
    this.#loading = undefined;
    this.refresh().catch(() => {});
  }

  /** Reads the schema; one at a time, however many ask. */
  refresh(): Promise<void> {
    if (this.#loading) return this.#loading;
    const generation = this.#generation;
    const loading = this.#load(generation)
      .catch(error => {
        log.warn({ err: error }, 'where the rows of tables are could not be read');
        throw error;
      })
      .finally(() => {
        if (this.#loading === loading) this.#loading = undefined;
      });
    this.#loading = loading;
    return loading;
  }

  close(): void {
    clearInterval(this.#timer);
  }

  async #load(generation: number): Promise<void> {
    const schema = await readSchema(this.#source);
    const planner = await readPlannerCatalog(this.#source);
    if (generation !== this.#generation) return;
    this.#isStale = false;
    const text = JSON.stringify([
      schema,
      [...planner.views],
      [...planner.identities],
      [...planner.aggregates],
    ]);
    // What was drawn from the same stays.
    if (text === this.#read?.text && this.#current) return;
    this.#read = { text, schema, planner };
    this.#join();
  }

  #join(): void {
    const { schema, planner } = this.#read!;
    const { database } = this.#map;
    const placement = placementOf(new Declared(database, schema), planner, ++this.#version);
    const unusable: Unusable[] = [];
    const columns = uniqueColumns(database, schema, one => unusable.push(one));
    const isNeeded = columns.length + unusable.length > 0;
    const unique = isNeeded ? new UniqueKeeper(columns, database, unusable) : undefined;
    this.#current = { placement, unique };
  }
}
