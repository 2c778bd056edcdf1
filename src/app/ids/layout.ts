/**
 * How an id's 63 bits are used, which the application's `nextId()` and the databases' `banyan.next_id()` share.
 *
 *     41 bits   milliseconds since 2025: until 2094
 *      1 bit    0: made by the application, 1: by a database
 *     21 bits   the application: 5 machine, 8 process, 8 counter; a database: 6 shard, 15 counter
 *
 * Signed 64-bit numbers sort by them as by time.
 */

/** 2025-01-01T00:00:00Z */
export const ID_EPOCH_MS = 1_735_689_600_000;

export const MACHINES = 2 ** 5;
export const PROCESSES = 2 ** 8;
/** Ids that one process makes in a millisecond; more are of the next one. */
export const COUNTS = 2 ** 8;
