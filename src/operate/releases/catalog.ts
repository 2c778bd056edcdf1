/** The releases in the catalog: which there were, and what became of them. */
import type { Catalog } from '../catalog.ts';
import type { WebShape } from '../web/shape.ts';
import type { WorkersShape } from '../workers/shape.ts';

export interface Release {
  number: number;
  createdAt: Date;
  /** How servers of it run; a rollback goes back to this too. */
  web: WebShape['web'];
  /** The same of its workers; missing in releases of old. */
  workers?: WorkersShape['workers'];
  /** The commit that it was made of, when the folder is under Git. */
  commit?: string;
  message?: string;
  /** Why it was taken back; it never served for good. */
  failed?: string;
}

type Details = Omit<Release, 'number' | 'createdAt'>;

export class ReleaseCatalog {
  readonly #catalog: Catalog;

  constructor(catalog: Catalog) {
    this.#catalog = catalog;
  }

  /** The newest first. */
  async all(): Promise<Release[]> {
    const { rows } = await this.#catalog.pool.query<{
      number: number;
      details: Details;
      created_at: Date;
    }>('select number, details, created_at from banyan.releases order by number desc');
    return rows.map(({ number, details, created_at }) => ({
      number,
      createdAt: created_at,
      ...details,
    }));
  }

  /** Notes a release under the next number, which no other gets. */
  async add(details: Details): Promise<number> {
    const { rows } = await this.#catalog.pool.query<{ number: number }>(
      `insert into banyan.releases (number, folder, details)
       select coalesce(max(number), 0) + 1, '', $1 from banyan.releases returning number`,
      [JSON.stringify(details)],
    );
    return rows[0]!.number;
  }

  async noteFailure(number: number, reason: string): Promise<void> {
    await this.#catalog.pool.query(
      `update banyan.releases set details = details || jsonb_build_object('failed', $2::text) where number = $1`,
      [number, reason],
    );
  }

  async forget(number: number): Promise<void> {
    await this.#catalog.pool.query('delete from banyan.releases where number = $1', [number]);
  }
}
