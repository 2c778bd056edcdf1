/** Rows as a table for the terminal, as psql draws it. Pure. */

export interface Column {
  name: string;
  /** Numbers stand on the right. */
  isNumber: boolean;
}

/** A line break within a value is shown as a mark, so that a row stays a line. */
const LINE_BREAK = '↵';

/** @param rows values as PostgreSQL writes them; null for NULL */
export function renderTable(columns: Column[], rows: (string | null)[][]): string {
  const cells = rows.map(row => row.map(show));
  const widths = columns.map(({ name }, index) =>
    cells.reduce((width, row) => Math.max(width, widthOf(row[index] ?? '')), widthOf(name)),
  );
  const lines = [
    columns.map(({ name }, index) => ` ${centre(name, widths[index]!)} `).join('│'),
    widths.map(width => '─'.repeat(width + 2)).join('┼'),
    ...cells.map(row =>
      row
        .map((cell, index) => {
          const blanks = ' '.repeat(widths[index]! - widthOf(cell));
          return columns[index]!.isNumber ? ` ${blanks}${cell} ` : ` ${cell}${blanks} `;
        })
        .join('│'),
    ),
  ];
  const count = `(${rows.length} ${rows.length === 1 ? 'row' : 'rows'})`;
  return `${lines.map(line => line.trimEnd()).join('\n')}\n${count}`;
}

/** One value a line: for rows that are wider than the terminal. */
export function renderExpanded(columns: Column[], rows: (string | null)[][]): string {
  if (rows.length === 0) return '(0 rows)';
  const width = columns.reduce((longest, { name }) => Math.max(longest, widthOf(name)), 0);
  return rows
    .map((row, number) => {
      const title = `─[ ${number + 1} ]`.padEnd(width + 1, '─');
      const values = columns.map(({ name }, index) => {
        return `${name}${' '.repeat(width - widthOf(name))} │ ${row[index] ?? 'NULL'}`;
      });
      return [title, ...values].join('\n');
    })
    .join('\n');
}

function show(value: string | null): string {
  return value === null ? 'NULL' : value.replace(/\r?\n/g, LINE_BREAK).replaceAll('\t', ' ');
}

/** Counts what takes a place in the terminal, East Asian wide characters twice. */
export function widthOf(text: string): number {
  let width = 0;
  for (const { segment } of graphemes.segment(text)) width += WIDE.test(segment) ? 2 : 1;
  return width;
}

const graphemes = new Intl.Segmenter();
const WIDE =
  /^[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|^\p{Emoji_Presentation}/u;

function centre(text: string, width: number): string {
  const blanks = width - widthOf(text);
  const left = Math.floor(blanks / 2);
  return ' '.repeat(left) + text + ' '.repeat(blanks - left);
}
