/** What an application imports from "banyan". */
export { type Assets, type AssetsOptions, createAssets } from './app/assets/assets.ts';
export { expressAssets, fastifyAssets, honoAssets } from './app/assets/middleware.ts';
export type { Cache, Explanation, Loader } from './app/cache/cache.ts';
export { type CacheOptions, createCache } from './app/cache/create-cache.ts';
export { InvalidCacheKey, InvalidCacheOption, NotStorable } from './app/cache/errors.ts';
export type { CacheKey, Duration, GetOptions } from './app/cache/options.ts';
export type { CacheCounts, CacheEvents } from './app/cache/stats.ts';
export type { Staleness } from './app/database/consistency/staleness.ts';
export { NeedsPrimary, OutcomeUnknown, TransactionBroken } from './app/database/errors.ts';
export { DatabaseAway } from './app/database/holding.ts';
export { type MigrationResult, migrate } from './app/database/migrate.ts';
export { createPool, type Pool, type PoolOptions } from './app/database/pool.ts';
export type { TransactionOptions } from './app/database/transaction.ts';
export { deriveKey } from './app/environment.ts';
export { nextId } from './app/ids/next-id.ts';
export { type Lifecycle, type LifecycleOptions, lifecycle } from './app/lifecycle/lifecycle.ts';
export type { ReadinessCheck } from './app/lifecycle/readiness.ts';
export { createQueue, type QueueOptions } from './app/queue/create-queue.ts';
export {
  defineJob,
  defineTopic,
  type Job,
  type JobOptions,
  type RetryOptions,
  type Topic,
  type TopicOptions,
} from './app/queue/definitions.ts';
export type { DeadLetter, DeadLetterFilter, SubscriptionStats } from './app/queue/engine.ts';
export {
  HandlerTimeout,
  InvalidPayload,
  InvalidQueueOption,
  JobCancelled,
  JobFailed,
  LeaseLost,
  MessageTooLarge,
  NotInTransaction,
  PayloadNotJson,
  QueueClosed,
  ResultsNotKept,
  ResultTimeout,
} from './app/queue/errors.ts';
export type {
  BatchContext,
  BatchOptions,
  JobContext,
  MessageToPublish,
  PublishOptions,
  Queue,
  ResultOptions,
  ScheduleOptions,
  WorkOptions,
} from './app/queue/types.ts';
export {
  expressSessions,
  fastifySessions,
  honoSessions,
  type RequestWithSession,
  type SessionVariables,
} from './app/sessions/middleware.ts';
export type { Session } from './app/sessions/session.ts';
export { createSessions, type Sessions, type SessionsOptions } from './app/sessions/sessions.ts';
export { type Logger, log } from './app/telemetry/log.ts';
export { requestContext } from './app/telemetry/request-context.ts';
export { BanyanError } from './errors.ts';
export {
  type Backup,
  type Balancer,
  type CacheTier,
  type DatabaseTier,
  defineTopology,
  type Logs,
  type RateLimit,
  type ServerBounds,
  type ShardedBy,
  type Tls,
  type Topology,
  type WebTier,
} from './topology/topology.ts';
