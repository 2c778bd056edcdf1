/** The names of types by their OIDs, so that a value that was read as text can be read back. */
import type { Lanes } from '../lanes.ts';
import { ShardRefused } from '../plan/refused.ts';

export interface TypeName {
  /** As a cast may name it. */
  readonly name: string;
  readonly isCollatable: boolean;
}

/** FirstNormalObjectId: below it all servers of a version are alike. */
const FIRST_USER_OID = 16_384;

const plain = (name: string): TypeName => ({ name, isCollatable: false });
const KNOWN = new Map<number, TypeName>([
  [16, plain('boolean')],
  [17, plain('bytea')],
  [20, plain('bigint')],
  [21, plain('smallint')],
  [23, plain('integer')],
  [25, { name: 'text', isCollatable: true }],
  [114, plain('json')],
  [700, plain('real')],
  [701, plain('double precision')],
  [1043, { name: 'character varying', isCollatable: true }],
  [1082, plain('date')],
  [1114, plain('timestamp without time zone')],
  [1184, plain('timestamp with time zone')],
  [1186, plain('interval')],
  [1700, plain('numeric')],
  [2950, plain('uuid')],
  [3802, plain('jsonb')],
]);

export class TypeNames {
  readonly #known = new Map<string, TypeName>();

  /**
   * @param shard where the OIDs come from: those of the user's types differ from shard to shard
   * @throws ShardRefused for what has no name that a value could be cast to: a row, a function's `void`
   */
  async resolve(oids: readonly number[], shard: number, lanes: Lanes): Promise<TypeName[]> {
    const key = (oid: number) => (oid < FIRST_USER_OID ? String(oid) : `${shard} ${oid}`);
    const missing = [...new Set(oids)].filter(oid => !KNOWN.has(oid) && !this.#known.has(key(oid)));
    if (missing.length > 0) {
      const { rows } = await lanes.query(
        shard,
        {
          text: `select oid::int8::text, format_type(oid, -1), typcollation <> 0, typtype = 'p'
            from pg_catalog.pg_type where oid = any ($1::oid[])`,
          values: [missing],
          rowMode: 'array',
        },
        { wantsWrite: false, isAside: true },
      );
      for (const row of rows as unknown as [string, string, boolean, boolean][]) {
        const [oid, name, isCollatable, isPseudo] = row;
        if (isPseudo) {
          throw new ShardRefused(
            `A column of type ${name} of several shards would have to be sorted or grouped, and its values cannot be sent back`,
            'Select the columns of the row one by one',
          );
        }
        this.#known.set(key(Number(oid)), { name, isCollatable });
      }
    }
    return oids.map(oid => KNOWN.get(oid) ?? this.#known.get(key(oid)) ?? plain('text'));
  }
}
