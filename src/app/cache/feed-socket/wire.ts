/**
 * How the invalidator and processes talk: lines of JSON over a socket.
 *
 * Holds true here: both ends use these functions. LSNs are texts of 16 hexadecimal digits (`position.ts`).
 *
 *     process → invalidator   { hello: NAME }   { invalidate: [TAG…], id }   { report: … }   { ask: 'status' }
 *     invalidator → process   { covers: … }  { batch: […] }  { gap: … }  { done: id }  { standby: true }  { status: … }
 */
import type { Batch, FeedEvent } from '../feed.ts';
import { lsnText, parseLsnText } from '../position.ts';
import type { Coverages } from '../tags.ts';

/** What a process counts, since it began. */
export interface CacheReport {
  /** By name: hits, misses, loads, … */
  readonly counts: Readonly<Record<string, number>>;
  /** The keys that are asked for the most, and how often of late. */
  readonly hotKeys: readonly { readonly key: string; readonly calls: number }[];
}

export type ToInvalidator =
  | { readonly hello: string }
  | { readonly invalidate: readonly string[]; readonly id: number }
  | { readonly report: CacheReport }
  | { readonly ask: 'status' };

/** cluster, from, upto, and of each transaction its xid, LSN and tags. */
type PackedBatch = readonly [string, string, string, readonly PackedInvalidation[]];
type PackedInvalidation = readonly [number | null, string, ...string[]];

export type ToProcess =
  | {
      readonly covers: {
        readonly cluster: string;
        readonly from: string;
        readonly tables: Coverages;
      };
    }
  | { readonly batch: PackedBatch }
  | {
      readonly gap: {
        readonly cluster: string;
        readonly upto: string | null;
        readonly reason: string;
      };
    }
  /** The batch with these tags has been told before it. */
  | { readonly done: number }
  /** Another invalidator serves; this one stands by. */
  | { readonly standby: true }
  | { readonly status: unknown };

export function packEvent(event: FeedEvent): ToProcess {
  switch (event.kind) {
    case 'covers': {
      const { cluster, from, tables } = event;
      return { covers: { cluster, from: lsnText(from), tables } };
    }
    case 'batch':
      return { batch: packBatch(event.batch) };
    case 'gap': {
      const { cluster, upto, reason } = event;
      return { gap: { cluster, upto: upto === undefined ? null : lsnText(upto), reason } };
    }
  }
}

function packBatch({ cluster, from, upto, invalidations }: Batch): PackedBatch {
  return [
    cluster,
    lsnText(from),
    lsnText(upto),
    invalidations.map(({ xid, lsn, tags }) => [xid ?? null, lsnText(lsn), ...tags]),
  ];
}

/** Undefined for what is no event. */
export function unpackEvent(message: ToProcess): FeedEvent | undefined {
  if ('batch' in message) {
    const [cluster, from, upto, packed] = message.batch;
    const invalidations = packed.map(([xid, lsn, ...tags]) => ({
      xid: xid ?? undefined,
      lsn: parseLsnText(lsn),
      tags,
    }));
    const batch = { cluster, from: parseLsnText(from), upto: parseLsnText(upto), invalidations };
    return { kind: 'batch', batch };
  }
  if ('covers' in message) {
    const { cluster, from, tables } = message.covers;
    return { kind: 'covers', cluster, from: parseLsnText(from), tables };
  }
  if ('gap' in message) {
    const { cluster, upto, reason } = message.gap;
    return { kind: 'gap', cluster, upto: upto === null ? undefined : parseLsnText(upto), reason };
  }
  return undefined;
}

/** A line that is longer is none of ours. */
const MAX_LINE_CHARACTERS = 64 * 1024 * 1024;

/** Hands out whole lines of what comes in pieces. */
export class Lines {
  #rest = '';

  /** @throws RangeError when a line does not end */
  take(text: string): string[] {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop()!;
    if (this.#rest.length > MAX_LINE_CHARACTERS) throw new RangeError('a line does not end');
    return lines.filter(line => line !== '');
  }
}
