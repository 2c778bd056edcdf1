/**
 * PostgreSQL's own parser: `libpg-query`, its grammar of version 18 compiled to WebAssembly.
 *
 * Holds true here:
 * - Nothing is loaded until `openParser` is called: an application without replicas pays nothing.
 * - `parse` never throws, whatever the text: what PostgreSQL would refuse, what is too long and what is
 *   nested too deeply are results.
 * - A parser that ran out of stack is thrown away. WebAssembly does not unwind its own stack when
 *   JavaScript's overflows: tried with 18.1.5, each such text shifts the stack of the next call, and after
 *   24 of them every text fails with "memory access out of bounds". While its successor is made, a few
 *   milliseconds, nothing is parsed.
 *
 * Grammar of 18 for servers of 15 to 18: it is a superset but for names that became keywords (`json_value`,
 * `system_user`, …), see `query-reader.ts`. A text for a server with `standard_conforming_strings = off` may
 * be read wrongly; then what reaches a standby is at worst refused there.
 */
import { createRequire } from 'node:module';
import type * as libpgQuery from 'libpg-query';
import type { RawStmt } from 'libpg-query';
import { BanyanError } from '../../../errors.ts';

export type Parsed =
  | { readonly kind: 'statements'; readonly statements: readonly RawStmt[] }
  | {
      readonly kind: 'syntax-error';
      readonly message: string;
      /** Of a character, as PostgreSQL counts: whole ones, from 1. Undefined: at the end. */
      readonly position: number | undefined;
    }
  | { readonly kind: 'too-large'; readonly limit: number }
  | { readonly kind: 'too-complex' }
  /** The parser is being made anew. */
  | { readonly kind: 'unavailable' };

/**
 * In UTF-16 units. A text of this length takes about 20 ms to parse, which the whole process waits for.
 * Longer ones are bulk loads, which belong on the primary anyway.
 */
export const MAX_TEXT_LENGTH = 1_000_000;

export class ParserUnavailable extends BanyanError {
  constructor(cause: unknown) {
    super('PARSER_UNAVAILABLE', {
      what: "PostgreSQL's parser could not be loaded",
      where: 'libpg-query',
      remedy: 'Install the dependencies anew: `npm install`',
      cause,
    });
  }
}

/** `libpg-query`, as far as it is used. */
type Library = Pick<typeof libpgQuery, 'loadModule' | 'parseSync' | 'hasSqlDetails'>;

export interface Parser {
  parse(text: string): Parsed;
}

/**
 * Loads the parser: about 20 ms and 12 MB.
 * @throws ParserUnavailable
 */
export async function openParser(): Promise<Parser> {
  try {
    return new WebAssemblyParser(await loadLibrary());
  } catch (error) {
    throw new ParserUnavailable(error);
  }
}

/** The package keeps one parser for each time it is evaluated, so a new parser takes a new evaluation. */
async function loadLibrary(): Promise<Library> {
  // Made anew as well: it would keep the old module alive among its children.
  const require = createRequire(import.meta.url);
  delete require.cache[require.resolve('libpg-query')];
  const library: Library = require('libpg-query');
  await library.loadModule();
  return library;
}

class WebAssemblyParser implements Parser {
  #library: Library | undefined;

  constructor(library: Library) {
    this.#library = library;
  }

  parse(text: string): Parsed {
    if (text.length > MAX_TEXT_LENGTH) return { kind: 'too-large', limit: MAX_TEXT_LENGTH };
    // C strings end there, and so would the parse: the rest would go unseen.
    const end = text.indexOf('\0');
    if (end >= 0) {
      const position = [...text.slice(0, end)].length + 1;
      return { kind: 'syntax-error', message: 'the text contains a zero character', position };
    }
    // An empty text is a statement to PostgreSQL, and an error to the library.
    if (text === '') return { kind: 'statements', statements: [] };
    const library = this.#library;
    if (!library) return { kind: 'unavailable' };
    try {
      return { kind: 'statements', statements: library.parseSync(text).stmts ?? [] };
    } catch (error) {
      if (library.hasSqlDetails(error)) {
        const { message, cursorPosition } = error.sqlDetails ?? { message: error.message };
        // PostgreSQL's own parser gives up at a depth, which is no error of syntax.
        if (message.startsWith('memory exhausted')) return { kind: 'too-complex' };
        const position = cursorPosition === undefined ? undefined : cursorPosition + 1;
        return { kind: 'syntax-error', message, position };
      }
      this.#replace();
      return { kind: 'too-complex' };
    }
  }

  #replace(): void {
    this.#library = undefined;
    loadLibrary().then(
      library => {
        this.#library = library;
      },
      // It was loaded before from the same files. Until the next start all goes to the primary.
      () => {},
    );
  }
}
