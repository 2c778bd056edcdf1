/**
 * The keeper of the columns that the map declares, for the schema as it is.
 *
 * Holds true here: it is read anew with each map, with each change of the schema by this process, and every so often
 * for those by others. A column that is not there yet is not kept unique yet.
 */
import type pg from 'pg';
import type { RuntimeMap } from '../../../../map/runtime-map.ts';
import { log } from '../../../telemetry/log.ts';
import { readSchema } from '../declaration/schema.ts';
import { uniqueColumns } from './columns.ts';
import { UniqueKeeper } from './keeper.ts';

const REFRESH_MS = 60_000;

export class UniqueColumns {
  readonly #map: () => RuntimeMap;
  readonly #source: { query(text: string): Promise<pg.QueryResult> };
  #keeper: UniqueKeeper | undefined;
  #loading: Promise<void> | undefined;
  #isLoaded = false;
  readonly #timer: NodeJS.Timeout;

  /** @param source to the first shard */
  constructor(map: () => RuntimeMap, source: { query(text: string): Promise<pg.QueryResult> }) {
    this.#map = map;
    this.#source = source;
    this.#timer = setInterval(() => this.refresh(), REFRESH_MS).unref();
    this.refresh();
  }

  /** Undefined when it is known what is unique; else to be waited for. @throws what the schema says against it */
  get ready(): Promise<void> | undefined {
    if (this.#isLoaded) return undefined;
    if (!this.#loading) this.refresh();
    return this.#loading;
  }

  get keeper(): UniqueKeeper | undefined {
    return this.#keeper;
  }

  /** The map, or the schema, is another one. What was known stays until that is. */
  refresh(): void {
    const { database } = this.#map();
    if (!database.unique?.length) {
      this.#keeper = undefined;
      this.#isLoaded = true;
      return;
    }
    const loading = this.#load(database).catch(error => {
      log.error({ err: error }, 'what is unique across shards could not be read');
      // Who needs it next asks again.
      if (this.#loading === loading) this.#loading = undefined;
      throw error;
    });
    this.#loading = loading;
    loading.catch(() => {});
  }

  close(): void {
    clearInterval(this.#timer);
  }

  async #load(database: RuntimeMap['database']): Promise<void> {
    const schema = await readSchema(this.#source as pg.ClientBase);
    this.#keeper = new UniqueKeeper(uniqueColumns(database, schema), database);
    this.#isLoaded = true;
  }
}
