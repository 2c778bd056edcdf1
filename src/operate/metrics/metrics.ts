/**
 * What `banyan status` and `banyan queue` tell, as metrics. Pure.
 *
 * Holds true here: names follow Prometheus' conventions (base units: seconds, bytes, parts of 1; `_total` for what only grows), and
 * what is not known has no sample, rather than a 0.
 */
import type { SubscriptionStats } from '../../app/queue/engine.ts';
import type { CacheStatus } from '../cache/status.ts';
import type { QueueNodeStatus } from '../queue/status.ts';
import type { Status, Traffic } from '../status.ts';
import type { Metric, Sample } from './exposition.ts';

const MEGABYTE = 1024 * 1024;

/** @param queue undefined when it could not be asked */
export function metricsOf(
  status: Status,
  queue: readonly SubscriptionStats[] | undefined,
): Metric[] {
  return [
    ...unitMetrics(status),
    ...(status.traffic ? trafficMetrics(status.traffic) : []),
    ...databaseMetrics(status),
    ...(status.cache ? cacheMetrics(status.cache) : []),
    ...(queue ? queueMetrics(queue) : []),
    ...(status.queue ? rabbitMqMetrics(status.queue) : []),
  ];
}

function unitMetrics({ units, epoch }: Status): Metric[] {
  const each = samplesOf(units, ({ name, tier }) => ({ unit: name, tier }));
  return [
    metric(
      'unit_ready',
      'Whether a unit is ready',
      each(({ phase }) => Number(phase === 'ready')),
    ),
    metric(
      'unit_restarts_total',
      'How often a unit ended unasked since it was started',
      each(({ restarts }) => restarts),
    ),
    metric('map_epoch', 'Epoch of the runtime map in force', alone(epoch)),
  ];
}

function trafficMetrics({ queued, requestRate, servers }: Traffic): Metric[] {
  const each = samplesOf(servers, ({ name }) => ({ server: name }));
  return [
    metric('web_requests_per_second', 'Requests in the last second', alone(requestRate)),
    metric('web_requests_waiting', 'Requests that wait since all servers are busy', alone(queued)),
    metric(
      'web_server_up',
      "By the balancers' checks",
      each(({ health }) => up(health)),
    ),
    metric(
      'web_server_requests_total',
      'Requests',
      each(({ requests }) => requests),
    ),
    metric(
      'web_server_errors_total',
      'Answers of 500 and more',
      each(s => s.errors5xx),
    ),
    metric(
      'web_server_requests_in_flight',
      'Requests now',
      each(({ inFlight }) => inFlight),
    ),
    metric(
      'web_server_response_seconds',
      'Time to answer, on average over the last thousand requests',
      each(({ responseMs }) => seconds(responseMs)),
    ),
  ];
}

function databaseMetrics({ databaseServers = [], load, copies }: Status): Metric[] {
  const servers = samplesOf(databaseServers, ({ name }) => ({ server: name }));
  const shards = samplesOf(load?.shards ?? [], ({ shard }) => ({ shard }));
  const keys = samplesOf(load?.hotKeys ?? [], ({ family, key, by }) => ({
    family,
    key: String(key),
    by,
  }));
  const copied = samplesOf(copies?.shards ?? [], ({ shard }) => ({ shard: String(shard) }));
  return [
    metric(
      'database_is_primary',
      'Who is',
      servers(({ role }) => Number(role === 'primary')),
    ),
    metric(
      'database_lag_bytes',
      'Log not replayed yet',
      servers(({ lagBytes }) => lagBytes),
    ),
    metric(
      'database_lag_seconds',
      'For how long',
      servers(({ lagSeconds }) => lagSeconds),
    ),
    metric(
      'shard_calls_share',
      'Part of all statements',
      shards(s => s.shareOfCalls),
    ),
    metric(
      'shard_time_share',
      'Part of all time of statements',
      shards(s => s.shareOfTime),
    ),
    metric(
      'hot_key_share',
      'What a key takes of all',
      keys(({ share }) => share),
    ),
    metric(
      'copies_lag_bytes',
      'Log not copied yet',
      copied(({ lagBytes }) => lagBytes),
    ),
  ];
}

function cacheMetrics({ invalidators, redis }: CacheStatus): Metric[] {
  const nodes = samplesOf(redis, ({ name, role }) => ({ server: name, role }));
  const serving = invalidators.find(({ serves }) => serves);
  const clusters = samplesOf(serving?.clusters ?? [], ({ cluster }) => ({ cluster }));
  const keys = samplesOf(serving?.hotKeys ?? [], ({ key }) => ({ key }));
  const counts = samplesOf(Object.entries(serving?.counts ?? {}), ([kind]) => ({ kind }));
  const quantiles = (serving?.clusters ?? []).flatMap(({ cluster, lagP50Ms, lagP99Ms }) => [
    { cluster, quantile: '0.5', ms: lagP50Ms },
    { cluster, quantile: '0.99', ms: lagP99Ms },
  ]);
  const lags = samplesOf(quantiles, ({ cluster, quantile }) => ({ cluster, quantile }));
  return [
    metric('cache_invalidator_serves', 'Whether one does', alone(Number(serving !== undefined))),
    metric('cache_listeners', 'Processes told what changes', alone(serving?.listeners)),
    metric(
      'cache_answers_total',
      'What the caches of the processes that run counted, by kind',
      counts(([, value]) => value),
    ),
    metric(
      'cache_hot_key_calls',
      'Of the keys asked for most, of late',
      keys(k => k.calls),
    ),
    metric(
      'cache_lag_bytes',
      'Log not told yet',
      clusters(({ lagBytes }) => lagBytes),
    ),
    metric(
      'cache_lag_seconds',
      'From commit until the caches were told, of the last thousand transactions',
      lags(({ ms }) => seconds(ms)),
    ),
    metric(
      'cache_gaps_total',
      'How often all was forgotten',
      clusters(({ gaps }) => gaps),
    ),
    metric(
      'redis_used_bytes',
      'Memory in use',
      nodes(({ usedMb }) => usedMb * MEGABYTE),
    ),
    metric(
      'redis_max_bytes',
      'Memory allowed',
      nodes(({ maxMb }) => maxMb * MEGABYTE),
    ),
    metric(
      'redis_keys',
      'Keys',
      nodes(({ keys }) => keys),
    ),
    metric(
      'redis_evicted_total',
      'Keys given up for want of memory',
      nodes(n => n.evicted),
    ),
    metric(
      'redis_hit_share',
      'Part of questions that found something',
      nodes(n => n.hitRate),
    ),
  ];
}

function queueMetrics(stats: readonly SubscriptionStats[]): Metric[] {
  const each = samplesOf(stats, ({ topic, subscription }) => ({
    topic,
    subscription: subscription ?? '',
  }));
  return [
    metric(
      'queue_depth',
      'Messages that wait or are in hand',
      each(({ depth }) => depth),
    ),
    metric(
      'queue_in_hand',
      'Messages in hand',
      each(({ leased }) => leased),
    ),
    metric(
      'queue_delayed',
      'Messages that are due later',
      each(({ delayed }) => delayed),
    ),
    metric(
      'queue_oldest_seconds',
      'How long the first that is ready has waited',
      each(({ oldestMs }) => seconds(oldestMs ?? 0)),
    ),
    metric(
      'queue_completed_total',
      'Messages done',
      each(({ completed }) => completed),
    ),
    metric(
      'queue_failed_total',
      'Attempts that failed',
      each(({ failed }) => failed),
    ),
    metric(
      'queue_died_total',
      'Messages that failed for good',
      each(({ died }) => died),
    ),
    metric(
      'queue_dead_letters',
      'Dead letters that are kept',
      each(s => s.deadLetters),
    ),
    metric(
      'queue_workers',
      'Processes that take from it',
      each(({ workers }) => workers),
    ),
  ];
}

function rabbitMqMetrics(nodes: readonly QueueNodeStatus[]): Metric[] {
  const each = samplesOf(nodes, ({ name }) => ({ server: name }));
  return [
    metric(
      'rabbitmq_bundles',
      'Bundles of messages in its queues',
      each(({ bundles }) => bundles),
    ),
    metric(
      'rabbitmq_used_bytes',
      'Memory in use',
      each(({ usedMb }) => usedMb * MEGABYTE),
    ),
    metric(
      'rabbitmq_max_bytes',
      'Memory allowed',
      each(({ maxMb }) => maxMb * MEGABYTE),
    ),
    metric(
      'rabbitmq_free_disk_bytes',
      'Disk free',
      each(n => n.freeDiskMb * MEGABYTE),
    ),
    metric(
      'rabbitmq_alarm',
      'Publishers are made to wait',
      each(n => Number(n.alarm !== undefined)),
    ),
  ];
}

function metric(name: string, help: string, samples: Sample[]): Metric {
  return { name, help, samples };
}

/** A sample of each thing of which the value is known. */
function samplesOf<T>(
  things: readonly T[],
  labels: (thing: T) => Record<string, string>,
): (value: (thing: T) => number | undefined) => Sample[] {
  return value =>
    things.flatMap(thing => {
      const known = value(thing);
      return known === undefined ? [] : [{ labels: labels(thing), value: known }];
    });
}

function alone(value: number | undefined): Sample[] {
  return value === undefined ? [] : [{ labels: {}, value }];
}

function seconds(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : ms / 1_000;
}

function up(health: string): number {
  return Number(/^UP/.test(health));
}
