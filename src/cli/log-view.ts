/**
 * Lines of units as a person reads them: the unit's name in its colour, the application's JSON lines
 * unfolded.
 */
import pc from 'picocolors';
import pretty from 'pino-pretty';
import type { LogLine } from '../machines/unit-log.ts';

const COLOURS = [pc.cyan, pc.magenta, pc.green, pc.yellow, pc.blue];
const NAME_WIDTH = 10;

export class LogView {
  readonly #colours = new Map<string, (text: string) => string>();
  readonly #unfold = pretty.prettyFactory({
    colorize: pc.isColorSupported,
    singleLine: true,
    translateTime: 'SYS:HH:MM:ss.l',
    ignore: 'pid,hostname',
    messageFormat: false,
  });

  render({ time, unit, text }: LogLine): string {
    const colour = this.#colourOf(unit);
    return `${colour(unit.padEnd(NAME_WIDTH))} ${pc.dim('│')} ${this.#renderText(time, text)}`;
  }

  #renderText(time: string, text: string): string {
    if (text.startsWith('{')) {
      try {
        return this.#unfold(JSON.parse(text)).trimEnd();
      } catch {
        // Not JSON after all.
      }
    }
    return `${pc.dim(`[${clock(time)}]`)} ${text}`;
  }

  #colourOf(unit: string): (text: string) => string {
    let colour = this.#colours.get(unit);
    if (!colour) {
      colour = COLOURS[this.#colours.size % COLOURS.length]!;
      this.#colours.set(unit, colour);
    }
    return colour;
  }
}

function clock(iso: string): string {
  const date = new Date(iso);
  const two = (value: number) => String(value).padStart(2, '0');
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`;
}
