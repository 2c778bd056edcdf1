/**
 * The names of transactions across shards, and of their prepared branches. Pure.
 *
 * Holds true here:
 * - An id is used once, for ever: deployment, coordinator (the unit's name, the same after a restart), the
 *   coordinator's *epoch* (each start of a pool has one of its own, random), and a number. Never a process id, which
 *   another machine, or another start, has as well (PgDog, issue 1271: orphans hidden from recovery).
 * - The name of a branch tells all that is needed to end it: whose it is, and which shard has the decision.
 * - Shards may be databases of one server, where names must differ: so the branch's own shard is in it too.
 */
import { randomBytes } from 'node:crypto';
import { BanyanError } from '../../../../errors.ts';

const PREFIX = 'banyan';
/** `GIDSIZE` (src/include/access/xact.h) with its closing zero. */
const MAX_BYTES = 199;
/** Of the coordinator's name, which is there for people: the epoch tells coordinators apart. */
const COORDINATOR_CHARACTERS = 40;
const EPOCH_BYTES = 8;

export interface BranchName {
  /** Of the transaction. */
  readonly id: string;
  /** The shard that has the decision, and the branch's own; both as `encodeName` writes them. */
  readonly decider: string;
  readonly shard: string;
}

export class TransactionNameTooLong extends BanyanError {
  constructor(name: string) {
    super('TRANSACTION_NAME_TOO_LONG', {
      what: `The name of a transaction across shards would have ${name.length} bytes, and PostgreSQL takes ${MAX_BYTES}`,
      where: name,
      remedy: "Nothing was kept. Give the deployment, or its shards' ids, shorter names",
    });
  }
}

/** A part of a name: letters, digits, `-`, `_` and `.` as they are, all else as `%` and two digits a byte. */
export function encodeName(part: string): string {
  return encodeURIComponent(part).replace(
    /[!'()*~]/g,
    character => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

/** Gives out the ids of one coordinator. */
export class TransactionIds {
  readonly #prefix: string;
  #sequence = 0;

  /** @param coordinator a stable name of who coordinates: the unit's */
  constructor(deployment: string, coordinator: string) {
    const name = encodeName(coordinator).slice(0, COORDINATOR_CHARACTERS);
    const epoch = randomBytes(EPOCH_BYTES).toString('hex');
    this.#prefix = `${encodeName(deployment)}:${name}:${epoch}`;
  }

  next(): string {
    this.#sequence++;
    return `${this.#prefix}:${this.#sequence}`;
  }
}

/**
 * The name under which a branch is prepared (a `gid`).
 * @throws TransactionNameTooLong
 */
export function branchName(id: string, decider: string, shard: string): string {
  const name = [PREFIX, id, encodeName(decider), encodeName(shard)].join(':');
  if (name.length > MAX_BYTES) throw new TransactionNameTooLong(name);
  return name;
}

/** What all branches of a deployment begin with. */
export function branchPrefix(deployment: string): string {
  return `${PREFIX}:${encodeName(deployment)}:`;
}

/** @returns undefined when it is not the name of one of our branches */
export function parseBranchName(gid: string): BranchName | undefined {
  const parts = gid.split(':');
  if (parts.length !== 7 || parts[0] !== PREFIX || parts.includes('')) return undefined;
  const [, deployment, coordinator, epoch, sequence, decider, shard] = parts as string[];
  return {
    id: [deployment, coordinator, epoch, sequence].join(':'),
    decider: decider!,
    shard: shard!,
  };
}
