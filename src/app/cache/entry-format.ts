/**
 * An entry as it lies in Redis: one string, so that a hit is one GET.
 *
 * Layout: version (1 byte), id (8), number of clusters (2), for each `checked to` as 16 hexadecimal digits, length of the
 * head (4), head (MessagePack), value. `checked to` has its fixed place, so that a script can move it forward
 * (`redis/scripts.ts`); the id tells whether it is still the same entry.
 */
import { randomBytes } from 'node:crypto';
import { Packr } from 'msgpackr';
import { parseSnapshot, renderSnapshot } from '../changes/snapshot.ts';
import { lsnText, type Position, type Positions, parseLsnText } from './position.ts';
import { CHECKED_AT } from './redis/scripts.ts';

const VERSION = 2;
const ID_AT = 1;
const COUNT_AT = 9;
const LSN_LENGTH = 16;
const packr = new Packr({ useRecords: false });

/** What is known of an entry besides its value. */
export interface EntryInfo {
  readonly positions: Positions;
  readonly tags: readonly string[];
  /** Milliseconds since 1970, by the clock of who loaded it: for expiry alone. */
  readonly loadedAt: number;
  /** From then on it is stale, and may be served for its grace only. */
  readonly expiresAt: number;
  /** Until when it is kept. */
  readonly goneAt: number;
  /** How long its loader took, in milliseconds. */
  readonly loadMs: number;
  /** The value is compressed. */
  readonly isCompressed: boolean;
}

/** How far somebody has vouched for it, by cluster. */
export type CheckedTo = Readonly<Record<string, bigint>>;

export interface StoredEntry extends EntryInfo {
  readonly id: Buffer;
  /** In the order of the layout. */
  readonly clusters: readonly string[];
  readonly checkedTo: CheckedTo;
  /** As the codec wrote it. */
  readonly value: Buffer;
}

type Head = [
  clusters: [name: string, kind: 's' | 'r', lsn: string, snapshot: string, before: string][],
  tags: readonly string[],
  loadedAt: number,
  expiresAt: number,
  goneAt: number,
  loadMs: number,
  isCompressed: 0 | 1,
];

/** The parts before and after `checked to`, and the clusters in their order. */
export interface EntryParts {
  readonly id: Buffer;
  readonly before: Buffer;
  readonly after: Buffer;
  readonly clusters: readonly string[];
}

export function writeEntry(info: EntryInfo, value: Buffer): EntryParts {
  const clusters = Object.keys(info.positions);
  const id = randomBytes(8);
  const before = Buffer.alloc(CHECKED_AT);
  before[0] = VERSION;
  id.copy(before, ID_AT);
  before.writeUInt16BE(clusters.length, COUNT_AT);
  const head: Head = [
    clusters.map(name => {
      const position = info.positions[name]!;
      const lsn = lsnText(position.lsn);
      if (position.kind === 'replayed') return [name, 'r', lsn, '', ''];
      return [name, 's', lsn, renderSnapshot(position.snapshot), lsnText(position.before)];
    }),
    info.tags,
    info.loadedAt,
    info.expiresAt,
    info.goneAt,
    info.loadMs,
    info.isCompressed ? 1 : 0,
  ];
  const packed = packr.pack(head);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(packed.length);
  return { id, before, after: Buffer.concat([length, packed, value]), clusters };
}

/** @returns undefined for what is not an entry, or one of another version */
export function readEntry(bytes: Buffer): StoredEntry | undefined {
  if (bytes.length < CHECKED_AT || bytes[0] !== VERSION) return undefined;
  const count = bytes.readUInt16BE(COUNT_AT);
  const headAt = CHECKED_AT + LSN_LENGTH * count + 4;
  if (bytes.length < headAt) return undefined;
  const valueAt = headAt + bytes.readUInt32BE(headAt - 4);
  if (bytes.length < valueAt) return undefined;
  const head = packr.unpack(bytes.subarray(headAt, valueAt)) as Head;
  const positions: Record<string, Position> = {};
  const checkedTo: Record<string, bigint> = {};
  const clusters: string[] = [];
  for (const [i, [name, kind, lsn, snapshot, before]] of head[0].entries()) {
    clusters.push(name);
    positions[name] =
      kind === 's'
        ? {
            kind: 'snapshot',
            lsn: parseLsnText(lsn),
            before: parseLsnText(before),
            snapshot: parseSnapshot(snapshot),
          }
        : { kind: 'replayed', lsn: parseLsnText(lsn) };
    const at = CHECKED_AT + LSN_LENGTH * i;
    checkedTo[name] = parseLsnText(bytes.toString('latin1', at, at + LSN_LENGTH));
  }
  return {
    id: bytes.subarray(ID_AT, COUNT_AT),
    clusters,
    positions,
    checkedTo,
    tags: head[1],
    loadedAt: head[2],
    expiresAt: head[3],
    goneAt: head[4],
    loadMs: head[5],
    isCompressed: head[6] === 1,
    value: bytes.subarray(valueAt),
  };
}
