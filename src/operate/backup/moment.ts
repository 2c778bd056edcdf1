/** The moment that a person wants back: `banyan restore --to …`. Pure. */
import { BanyanError } from '../../errors.ts';

export type Target =
  | { kind: 'latest' }
  /** As the database was when the backup had been made. */
  | { kind: 'backup'; label: string }
  | { kind: 'time'; at: Date };

export class MomentUnclear extends BanyanError {
  constructor(text: string, why: string) {
    super('MOMENT_UNCLEAR', {
      what: `It is not clear what moment is meant: ${why}`,
      where: `--to '${text}'`,
      remedy: `Write one of: latest; the label of a backup (20261125-190723F); '2026-11-25 19:07:23' or 2026-11-25T19:07:23.5 in this machine's time zone; 2026-11-25T19:07:23Z or +02:00; 19:07 for today; '10m ago' (s, m, h, d)`,
    });
  }
}

export class MomentInFuture extends BanyanError {
  constructor(at: Date, now: Date) {
    super('MOMENT_IN_FUTURE', {
      what: `That moment is still to come: ${at.toISOString()}; it is ${now.toISOString()}`,
      where: '--to',
      remedy: 'Nothing was changed. For the last there is: --to latest',
    });
  }
}

const UNIT_MS = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** @throws MomentUnclear, MomentInFuture */
export function parseTarget(text: string, now: Date): Target {
  const word = text.trim();
  if (word === 'latest') return { kind: 'latest' };
  if (/^\d{8}-\d{6}F(_\d{8}-\d{6}[DI])?$/.test(word)) return { kind: 'backup', label: word };
  const at = parseAgo(word, now) ?? parseClock(word, now) ?? parseDate(word, text);
  if (!at) throw new MomentUnclear(text, 'it is no time, no label and not `latest`');
  if (at > now) throw new MomentInFuture(at, now);
  return { kind: 'time', at };
}

function parseAgo(word: string, now: Date): Date | undefined {
  const [, amount, unit] =
    /^(\d{1,9})\s*(s|m|h|d|seconds?|minutes?|hours?|days?)\s+ago$/.exec(word) ?? [];
  if (!amount || !unit) return undefined;
  return new Date(now.getTime() - Number(amount) * UNIT_MS[unit[0] as keyof typeof UNIT_MS]);
}

function parseClock(word: string, now: Date): Date | undefined {
  const [, hour, minute, second = '0'] = /^(\d{1,2}):(\d{2})(?::(\d{2}))?$/.exec(word) ?? [];
  if (!hour || !minute) return undefined;
  const [h, m, s] = [Number(hour), Number(minute), Number(second)];
  if (h > 23 || m > 59 || s > 59) return undefined;
  return new Date(now.getFullYear(), now.getMonth(), now.getDate(), h, m, s);
}

const DATE =
  /^(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,6}))?)?)?\s*(Z|[+-]\d{2}(?::?\d{2})?)?$/i;

function parseDate(word: string, text: string): Date | undefined {
  const found = DATE.exec(word);
  if (!found) return undefined;
  const [, year, month, day, hour = '00', minute = '00', second = '00', fraction = '', zone] =
    found;
  const [mo, d, h, mi, s] = [month, day, hour, minute, second].map(Number) as [
    number,
    number,
    number,
    number,
    number,
  ];
  // JavaScript makes 1 March of 30 February.
  const days = new Date(Date.UTC(Number(year), mo, 0)).getUTCDate();
  if (mo < 1 || mo > 12 || d < 1 || d > days || h > 23 || mi > 59 || s > 59) {
    throw new MomentUnclear(text, 'there is no such date or time');
  }
  const ms = Number(fraction.padEnd(3, '0').slice(0, 3));
  if (!zone) return new Date(Number(year), mo - 1, d, h, mi, s, ms);
  return new Date(Date.UTC(Number(year), mo - 1, d, h, mi, s, ms) - offsetMs(zone));
}

function offsetMs(zone: string): number {
  if (/^z$/i.test(zone)) return 0;
  const [, sign, hours, minutes = '0'] = /^([+-])(\d{2}):?(\d{2})?$/.exec(zone)!;
  return (sign === '-' ? -1 : 1) * (Number(hours) * 60 + Number(minutes)) * 60_000;
}
