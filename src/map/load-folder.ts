/** Where applications tell what they ask of which shard: a folder beside the map, that the operator's half makes. */
export const LOAD_FOLDER = 'load';

/** A process writes its file once in this time; one that is older than three of it is of a process that is gone. */
export const LOAD_INTERVAL_MS = 10_000;
