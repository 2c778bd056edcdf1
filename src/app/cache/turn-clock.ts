/**
 * The time of this turn of the event loop, as libuv has it for timers: within a turn it stands still.
 *
 * For what is asked a million times a second, where the clock itself is the larger part of the cost. It is behind by as long as
 * the turn has taken, in which nothing else happens either: no answer comes, and no invalidation.
 */
let now = 0;

const over = () => {
  now = 0;
};

/** Milliseconds since 1970. */
export function turnNow(): number {
  if (now === 0) {
    now = Date.now();
    setImmediate(over);
  }
  return now;
}
