/**
 * What a sharded pool knows of a text by itself: the facts of `route/`, by which it tells what concerns the session
 * and the transaction from what the planner places.
 */
import type { Node } from 'libpg-query';
import { log } from '../../telemetry/log.ts';
import type { Catalog } from '../route/catalog.ts';
import { CatalogKeeper, type CatalogSource } from '../route/catalog-keeper.ts';
import type { StatementFacts } from '../route/facts.ts';
import { openParser, type Parser } from '../route/parser.ts';
import { StatementCache } from '../route/statement-cache.ts';

export class StatementReader {
  readonly #keeper: CatalogKeeper;
  readonly #ready: Promise<void>;
  #parser: Parser | undefined;
  #statements: StatementCache | undefined;

  /** @param source a pool of the first shard */
  constructor(source: CatalogSource) {
    this.#keeper = new CatalogKeeper(source, {
      onError: error =>
        log.warn({ err: error }, 'the catalog could not be read; tried again later'),
    });
    this.#ready = this.#prepare();
    this.#ready.catch(() => {});
  }

  /** Undefined when it is ready. @throws ParserUnavailable */
  get ready(): Promise<void> | undefined {
    return this.#statements ? undefined : this.#ready;
  }

  /** Only when it is ready. */
  get parser(): Parser {
    return this.#parser!;
  }

  get catalog(): Catalog {
    return this.#keeper.current;
  }

  /** Of a text; only when it is ready. */
  facts(text: string): StatementFacts {
    const facts = this.#statements!.facts(text);
    if (facts.unknownNames.length > 0) this.#keeper.noticed(facts);
    return facts;
  }

  /** The trees of a text's statements; undefined when it cannot be parsed. */
  parse(text: string): Node[] | undefined {
    const parsed = this.#parser!.parse(text);
    if (parsed.kind !== 'statements') return undefined;
    return parsed.statements.flatMap(({ stmt }) => stmt ?? []);
  }

  /** The statements of a text, each as it is written; undefined when it cannot be parsed. */
  split(text: string): string[] | undefined {
    const parsed = this.#parser!.parse(text);
    if (parsed.kind !== 'statements') return undefined;
    // The parser counts in bytes.
    const bytes = Buffer.from(text);
    return parsed.statements.map(({ stmt_location = 0, stmt_len }) =>
      bytes.toString('utf8', stmt_location, stmt_len ? stmt_location + stmt_len : undefined),
    );
  }

  /** The schema was changed by this process. */
  changed(): void {
    void this.#keeper.changed();
  }

  close(): void {
    this.#keeper.close();
  }

  async #prepare(): Promise<void> {
    this.#parser = await openParser();
    await this.#keeper.refresh();
    this.#statements = new StatementCache(this.#parser, () => this.#keeper.current);
  }
}
