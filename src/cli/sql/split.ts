/**
 * Splits a script into statements where psql would. Pure.
 *
 * A semicolon ends a statement unless it stands in a string, a quoted name, a comment, brackets, or the
 * body of a function in standard SQL (`begin atomic … end`). The rules are those of PostgreSQL's
 * lexer (src/fe_utils/psqlscan.l); libraries for many databases get escape strings and nested
 * comments wrong, and a statement cut in the wrong place may do harm.
 */

export interface SplitScript {
  /** Complete statements, without their semicolons. */
  statements: string[];
  /** What follows the last of them: the beginning of the next, or only blanks and comments. */
  rest: string;
}

export function splitScript(text: string): SplitScript {
  const statements: string[] = [];
  const scanner = new Scanner(text);
  let from = 0;
  for (let end = scanner.nextEnd(); end !== undefined; end = scanner.nextEnd()) {
    const statement = text.slice(from, end);
    if (!isBlank(statement)) statements.push(statement.trim());
    from = end + 1;
  }
  return { statements, rest: text.slice(from) };
}

/** True when nothing but blanks and comments is there. */
export function isBlank(text: string): boolean {
  return new Scanner(text).isBlank();
}

const WORD = /[\p{L}_\u0080-\uffff][\p{L}\p{N}_$\u0080-\uffff]*/uy;
const DOLLAR_TAG = /\$(?:[\p{L}_\u0080-\uffff][\p{L}\p{N}_\u0080-\uffff]*)?\$/uy;

class Scanner {
  readonly #text: string;
  #at = 0;
  /** Open brackets. */
  #depth = 0;
  /** Open `begin atomic`, `case` and so on within the body of a function. */
  #blocks = 0;
  /** The first words of the statement, to know a function's definition. */
  #words: string[] = [];

  constructor(text: string) {
    this.#text = text;
  }

  /** The position of the next semicolon that ends a statement. */
  nextEnd(): number | undefined {
    while (this.#at < this.#text.length) {
      if (this.#skipQuoted()) continue;
      const word = this.#match(WORD);
      if (word) {
        this.#take(word.toLowerCase());
        continue;
      }
      const character = this.#text[this.#at]!;
      if (character === '(') this.#depth++;
      else if (character === ')') this.#depth = Math.max(0, this.#depth - 1);
      else if (character === ';' && this.#depth === 0 && this.#blocks === 0) {
        this.#words = [];
        return this.#at++;
      }
      this.#at++;
    }
    return undefined;
  }

  isBlank(): boolean {
    while (this.#at < this.#text.length) {
      if (this.#skipComment()) continue;
      if (!/\s/.test(this.#text[this.#at]!)) return false;
      this.#at++;
    }
    return true;
  }

  /** As psql does: blocks are counted only in `create [or replace] function | procedure`. */
  #take(word: string): void {
    if (this.#words.length < 4) this.#words.push(word);
    const [first, second, third, fourth] = this.#words;
    const kind = second === 'or' && third === 'replace' ? fourth : second;
    if (first !== 'create' || (kind !== 'function' && kind !== 'procedure')) return;
    if (word === 'begin') this.#blocks++;
    else if (word === 'case' && this.#blocks > 0) this.#blocks++;
    else if (word === 'end' && this.#blocks > 0) this.#blocks--;
  }

  #skipQuoted(): boolean {
    if (this.#skipComment()) return true;
    const rest = this.#text[this.#at]!;
    if (rest === "'") return this.#skipTo("'", this.#isEscapeString());
    if (rest === '"') return this.#skipTo('"', false);
    const tag = rest === '$' && !this.#followsWord() ? this.#match(DOLLAR_TAG) : undefined;
    if (tag === undefined) return false;
    const close = this.#text.indexOf(tag, this.#at);
    this.#at = close < 0 ? this.#text.length : close + tag.length;
    return true;
  }

  #skipComment(): boolean {
    const two = this.#text.slice(this.#at, this.#at + 2);
    if (two === '--') {
      const end = this.#text.indexOf('\n', this.#at);
      this.#at = end < 0 ? this.#text.length : end + 1;
      return true;
    }
    if (two !== '/*') return false;
    // Comments nest, as the standard says.
    let depth = 0;
    do {
      const pair = this.#text.slice(this.#at, this.#at + 2);
      if (pair === '/*') depth++;
      else if (pair === '*/') depth--;
      this.#at += pair === '/*' || pair === '*/' ? 2 : 1;
    } while (depth > 0 && this.#at < this.#text.length);
    return true;
  }

  #skipTo(quote: string, hasEscapes: boolean): true {
    this.#at++;
    while (this.#at < this.#text.length) {
      const character = this.#text[this.#at]!;
      if (character === quote) {
        if (this.#text[this.#at + 1] !== quote) break;
        this.#at++;
      } else if (character === '\\' && hasEscapes) this.#at++;
      this.#at++;
    }
    this.#at = Math.min(this.#text.length, this.#at + 1);
    return true;
  }

  /** `E'…'`, where a backslash hides the quote after it. */
  #isEscapeString(): boolean {
    return /(^|[^\p{L}\p{N}_$])[eE]$/u.test(this.#text.slice(Math.max(0, this.#at - 2), this.#at));
  }

  #followsWord(): boolean {
    return this.#at > 0 && /[\p{L}\p{N}_$\u0080-\uffff]/u.test(this.#text[this.#at - 1]!);
  }

  /** Matches at the present position and goes behind it. */
  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }
}
