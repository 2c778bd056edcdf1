/**
 * When one shard, or one key, takes so much that something has to be done, and what. The figures are those of all web
 * servers together (`load.ts`).
 *
 * Holds true here: an alert is raised for what is certain (a key's share is at least so much), and said once until it is
 * over; what stays is said again every so often.
 */
import type { Load } from '../app/database/shards/hot/load.ts';

export interface LoadAlert {
  /** Stable while it lasts: `key integer 42`, `shard 2`. */
  id: string;
  /** What, and what to do. */
  text: string;
  /** The same without a key's value, which is a value of rows: for the log. */
  loggedText: string;
}

/** A key that takes this part of all is not evened out by more shards: it stays on one. */
const KEY_SHARE = 0.1;
/** What a shard may take: so many times its part, and so much more than it. */
const SHARD_TIMES = 1.5;
const SHARD_MORE = 0.1;
/** Of fewer calls no part says anything. */
const FEWEST_CALLS = 1_000;

/** Pure. */
export function loadAlerts({ shards, hotKeys }: Load): LoadAlert[] {
  const calls = shards.reduce((sum, each) => sum + each.calls, 0);
  if (calls < FEWEST_CALLS) return [];
  const keys = hotKeys
    .filter(({ shareAtLeast }) => shareAtLeast >= KEY_SHARE)
    .map(({ family, key, share, by }): LoadAlert => {
      const rest = `takes ${percent(share)} of ${by === 'calls' ? 'all calls' : 'the time of all calls'}: read what belongs to it through a cache, and spread what is written to it over several rows (a counter in parts). More shards do not help: a key is on one`;
      return {
        id: `key ${family} ${key}`,
        text: `the ${family} key ${JSON.stringify(key)} ${rest}`,
        loggedText: `a key of the kind ${family}, which \`banyan status\` names, ${rest}`,
      };
    });
  if (shards.length < 2) return keys;
  const fair = 1 / shards.length;
  const most = Math.max(SHARD_TIMES * fair, fair + SHARD_MORE);
  const hot = shards
    .map(each => ({ ...each, share: Math.max(each.shareOfCalls, each.shareOfTime) }))
    .filter(({ share }) => share >= most)
    .map(({ shard, share, shareOfTime }): LoadAlert => {
      const text = `shard ${shard} takes ${percent(share)} of ${share === shareOfTime ? 'the time of all calls' : 'all calls'}, where ${percent(fair)} would be its part: ${keys.length > 0 ? 'see the hot keys' : 'tables that are not sharded are all on the first shard: shard them, or make small ones reference tables; `replicas` takes reads off it'}`;
      return { id: `shard ${shard}`, text, loggedText: text };
    });
  return [...keys, ...hot];
}

function percent(part: number): string {
  return `${Math.round(part * 100)} %`;
}

const LOOK_INTERVAL_MS = 15_000;
/** What lasts is said again after this. */
const REPEAT_MS = 30 * 60_000;

/** Says alerts in the log. */
export class LoadWatch {
  readonly #read: () => Promise<Load | undefined>;
  readonly #say: (text: string) => void;
  /** When each was last said, by `performance.now()`, and how. */
  readonly #said = new Map<string, { at: number; text: string }>();
  #timer: NodeJS.Timeout | undefined;

  constructor(read: () => Promise<Load | undefined>, say: (text: string) => void) {
    this.#read = read;
    this.#say = say;
  }

  start(): void {
    this.#timer = setInterval(() => void this.look().catch(() => {}), LOOK_INTERVAL_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** Says what is new, and what is over. */
  async look(now = performance.now()): Promise<void> {
    const load = await this.#read();
    const alerts = load ? loadAlerts(load) : [];
    for (const { id, loggedText: text } of alerts) {
      const said = this.#said.get(id);
      if (said && now - said.at < REPEAT_MS) continue;
      this.#said.set(id, { at: now, text });
      this.#say(`hot: ${text}`);
    }
    for (const [id, { text }] of [...this.#said]) {
      if (alerts.some(alert => alert.id === id)) continue;
      this.#said.delete(id);
      this.#say(`no longer hot: ${text.split(' takes ')[0]}`);
    }
  }
}
