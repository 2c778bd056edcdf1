/**
 * How commands talk to the supervisor: HTTP with JSON over a Unix socket that only the deployment's
 * account can open.
 *
 *     GET    /status                              → Status
 *     GET    /circumstances                       → Circumstances
 *     POST   /stop                                → 202; the supervisor then stops everything and ends
 *     GET    /logs?lines=N&unit=NAME&follow=1     → one LogLine a line (NDJSON)
 *     POST   /sockets       SocketAddress         → { port }
 *     POST   /units         UnitSpec              → 200 when it is ready
 *     DELETE /units/NAME                          → 200 when nothing of it is left
 *     POST   /units/NAME/signal   { signal }      → 200
 *     POST   /cut-over      CutOver                → { heldMs }; the moment in which a move switches
 *
 * An error is answered with 4xx or 5xx and `{ error: { code, what, where, remedy } }`.
 */

/** What a command has to know of how the deployment was started, to add to it in the same way. */
export interface Circumstances {
  /** The environment that `banyan up` was given: what it starts later gets the same. */
  environment: NodeJS.ProcessEnv;
  /** With the owner's credentials: a secret. */
  databaseUrl: string;
  /** Where users connect, as it really is. */
  publicPort: number;
  /** What `banyan up` was told on the command line in place of the configuration. */
  overrides: { port?: number; host?: string };
}
