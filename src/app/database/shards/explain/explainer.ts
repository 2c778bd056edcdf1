/**
 * EXPLAIN over shards: first Banyan's own plan (which shards, why, what each is sent, how the answers become one), then
 * that of each shard below what it was sent.
 *
 * Holds true here:
 * - Without ANALYZE nothing runs. What depends on answers is shown, and not explained.
 * - What goes to one shard as it came is explained there as it came, in the format that was asked for.
 * - What is refused is refused as it would be without EXPLAIN.
 */
import type pg from 'pg';
import type { QueryConfig } from '../../statement.ts';
import type { LaneStatement, Lanes } from '../lanes.ts';
import { resultOf } from '../merge/gathered.ts';
import type { Placement } from '../plan/placement.ts';
import { ShardRefused } from '../plan/refused.ts';
import type { ShardRouter } from '../shard-router.ts';
import type { StatementReader } from '../statement-reader.ts';
import type { ExplainText } from './explain-text.ts';
import { type Outline, outlineOf, type Sent } from './outline.ts';
import { reasonsOf, shardsText } from './reasons.ts';
import { planLines, type Recorded, RecordingLanes } from './recording-lanes.ts';

/** A shard that something else than the plan has told. */
export interface Place {
  readonly shard: number;
  /** For people. */
  readonly why: string;
}

export interface ExplainerOptions {
  readonly router: ShardRouter;
  readonly reader: StatementReader;
  placement(): Placement;
  /** Of the shards, in the map's order. */
  names(): readonly string[];
}

type Results = pg.QueryResult | pg.QueryResult[];

const TEXT_OID = 25;
const READ = { wantsWrite: false };
/** A step may have steps of its own; nobody nests deeper on purpose. */
const MAX_DEPTH = 10;

export class Explainer {
  readonly #options: ExplainerOptions;

  constructor(options: ExplainerOptions) {
    this.#options = options;
  }

  /** @throws ShardRefused, what the shards say */
  async explain(
    explain: ExplainText,
    config: QueryConfig,
    lanes: Lanes,
    place?: Place,
  ): Promise<Results> {
    const { router, placement, reader } = this.#options;
    const given = (typeof config === 'string' ? { text: config } : config) as LaneStatement;
    const values = given.values ?? [];
    const plan = await router.settledPlan(explain.statement);
    const outline = place
      ? { sent: undefined, shards: [place.shard], steps: [], merge: [] }
      : outlineOf(plan, values, placement(), router.maxMergedRows);
    if (!outline) return router.execute(config, lanes);
    const wantsWrite = reader.facts(given.text).access !== 'read';
    const [only] = outline.shards ?? [];
    if (!outline.sent && !explain.isForPeople) {
      return lanes.query(only!, given, { wantsWrite });
    }
    if (!explain.isForPeople) {
      throw new ShardRefused(
        'EXPLAIN of a statement that goes to several shards is made of the plans of them all, which has no other format than TEXT',
        'Leave out FORMAT, or name the shard key in the statement to see the plan of one shard',
      );
    }
    if (!outline.sent) {
      const said = await planLines(lanes, only!, '', given, { wantsWrite });
      const why = place ? [place.why] : this.#why(explain.statement, values);
      return answer([...this.#route(outline, why), ...said], given);
    }
    if (!explain.runs) return answer(await this.#lines(explain, values, lanes), given);

    const recorded: Recorded[] = [];
    const statement = { ...given, text: explain.statement };
    await router.execute(statement as never, new RecordingLanes(lanes, explain.prefix, recorded));
    const head = this.#route(outline, this.#why(explain.statement, values));
    return answer([...head, ...this.#recordedLines(recorded), ...outline.merge], given);
  }

  /** Of what is not run. */
  async #lines(
    { prefix, statement }: Pick<ExplainText, 'prefix' | 'statement'>,
    values: readonly unknown[],
    lanes: Lanes,
    depth = 0,
  ): Promise<string[]> {
    const { router, placement } = this.#options;
    const plan = await router.settledPlan(statement);
    const outline = outlineOf(plan, values, placement(), router.maxMergedRows);
    if (!outline || depth > MAX_DEPTH) return [`send: ${statement}`];
    const lines = this.#route(outline, this.#why(statement, values));
    for (const { name, query } of outline.steps) {
      const own = query.parameters.map(number => values[number - 1]);
      const step = { prefix, statement: query.text };
      lines.push(`first, as ${name}: ${query.text}`);
      lines.push(...(await this.#lines(step, own, lanes, depth + 1)).map(indent));
    }
    const whole = [{ shards: outline.shards ?? [], text: statement, values }];
    for (const sent of outline.sent ?? whole) {
      lines.push(this.#sentLine(sent));
      if (sent.values) lines.push(...(await this.#shardLines(prefix, sent, lanes)));
    }
    return [...lines, ...outline.merge];
  }

  async #shardLines(prefix: string, { shards, text, values }: Sent, lanes: Lanes) {
    const plans = await Promise.all(
      shards.map(shard => planLines(lanes, shard, prefix, { text, values: [...values!] }, READ)),
    );
    return shards.flatMap((shard, i) => [
      indent(`shard ${this.#options.names()[shard]}:`),
      ...plans[i]!.map(indent).map(indent),
    ]);
  }

  /** Neighbours that were sent the same stand under one text. */
  #recordedLines(recorded: readonly Recorded[]): string[] {
    const lines: string[] = [];
    const names = this.#options.names();
    for (const [at, { shard, text, plan }] of recorded.entries()) {
      if (recorded[at - 1]?.text !== text) {
        const next = recorded.findIndex((one, i) => i > at && one.text !== text);
        const same = recorded.slice(at, next < 0 ? undefined : next);
        lines.push(this.#sentLine({ shards: same.map(one => one.shard), text, values: undefined }));
      }
      lines.push(indent(`shard ${names[shard]}:`), ...plan.map(indent).map(indent));
    }
    return lines;
  }

  #sentLine({ shards, text }: Sent): string {
    if (shards.length === 0) return `then, as what came back says: ${text}`;
    return `send to ${shardsText(shards, this.#options.names())}: ${text}`;
  }

  #route({ shards, steps }: Outline, why: readonly string[]): string[] {
    const where = shards
      ? shardsText(shards, this.#options.names())
      : steps.length > 0
        ? `in ${steps.length + 1} steps`
        : 'known when it runs';
    return [`route: ${where}`, ...why.map(indent)];
  }

  #why(statement: string, values: readonly unknown[]): string[] {
    const { router, reader, placement, names } = this.#options;
    const { tables } = reader.facts(statement);
    const { action } = router.plan(statement);
    return reasonsOf(action, { tables, placement: placement(), values, names: names() });
  }
}

const indent = (line: string) => `  ${line}`;

/** As PostgreSQL's EXPLAIN gives its lines. */
function answer(lines: readonly string[], { rowMode, types }: LaneStatement): pg.QueryResult {
  const field: pg.FieldDef = {
    name: 'QUERY PLAN',
    tableID: 0,
    columnID: 0,
    dataTypeID: TEXT_OID,
    dataTypeSize: -1,
    dataTypeModifier: -1,
    format: 'text',
  };
  const rows = lines.map(line => [line]);
  return resultOf('EXPLAIN', [field], rows, { rowMode, types });
}
