/** What an application imports from "banyan". */
export { createPool, type Pool, type PoolOptions } from './app/database/pool.ts';
export { type Logger, log } from './app/telemetry/log.ts';
export { requestContext } from './app/telemetry/request-context.ts';
export { BanyanError } from './errors.ts';
export {
  type DatabaseTier,
  defineTopology,
  type Logs,
  type Topology,
  type WebTier,
} from './topology/topology.ts';
