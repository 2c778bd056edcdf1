/**
 * The load generator: requests at a rate that does not ask whether the server keeps up.
 *
 * Users come when they come, so arrivals are a Poisson process, and a request's time counts from when
 * it should have been sent: a server that stalls for a second makes a second's worth of users wait,
 * and the percentiles show it. (Gil Tene, "How NOT to Measure Latency": coordinated omission.)
 *
 * Glossary:
 * - rate: arrivals a second. shed: arrivals that were not sent, since too many were under way; they
 *   count as failures, never as nothing.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { Agent, request } from 'undici';

export interface LoadRequest {
  /** Groups requests in the report: `article`. */
  name: string;
  method?: 'GET' | 'POST' | 'PUT' | 'DELETE';
  path: string;
  headers?: Record<string, string>;
  body?: unknown;
}

export interface LoadOptions {
  origin: string;
  /** Arrivals a second. */
  rate: number;
  durationMs: number;
  /** Chooses the next request; called once for each arrival. */
  next: () => LoadRequest;
  /** The most under way at a time. Default: 1000. */
  maxInFlight?: number;
  /** Connections kept open. Default: 64. */
  connections?: number;
  /** A request that takes longer has failed. Default: 30000. */
  timeoutMs?: number;
}

export interface Latencies {
  count: number;
  /** All in milliseconds. */
  p50: number;
  p90: number;
  p99: number;
  p999: number;
  max: number;
}

export interface LoadReport {
  arrivals: number;
  /** Answers below 500. */
  answered: number;
  /** How often each failure was seen: `HTTP 500`, `UND_ERR_SOCKET`, `shed`. */
  failures: Record<string, number>;
  /** Answers a second, over the time until the last. */
  throughput: number;
  all: Latencies;
  byName: Record<string, Latencies>;
}

/** Sends load for `durationMs`, waits for the last answer, and reports. */
export async function load(options: LoadOptions): Promise<LoadReport> {
  const { origin, rate, durationMs, next, maxInFlight = 1_000 } = options;
  const { connections = 64, timeoutMs = 30_000 } = options;
  const agent = new Agent({ connections, pipelining: 1 });
  const times = new Map<string, number[]>();
  const failures: Record<string, number> = {};
  const fail = (what: string) => {
    failures[what] = (failures[what] ?? 0) + 1;
  };
  const underWay = new Set<Promise<void>>();
  const begun = performance.now();

  const send = async ({ name, method = 'GET', path, headers, body }: LoadRequest, due: number) => {
    try {
      const response = await request(origin + path, {
        method,
        dispatcher: agent,
        headers: {
          ...headers,
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        body: body === undefined ? null : JSON.stringify(body),
        signal: AbortSignal.timeout(timeoutMs),
      });
      await response.body.dump();
      if (response.statusCode >= 500) return fail(`HTTP ${response.statusCode}`);
      const elapsed = performance.now() - due;
      const list = times.get(name);
      if (list) list.push(elapsed);
      else times.set(name, [elapsed]);
    } catch (error) {
      fail((error as { code?: string }).code ?? (error as Error).name);
    }
  };

  let arrivals = 0;
  let due = begun;
  for (;;) {
    due += (-Math.log(1 - Math.random()) / rate) * 1_000;
    if (due > begun + durationMs) break;
    const early = due - performance.now();
    // A timer is good to a millisecond; several arrivals may be due by then, and are sent together.
    if (early > 1) await delay(early);
    arrivals++;
    if (underWay.size >= maxInFlight) {
      fail('shed');
      continue;
    }
    const sent: Promise<void> = send(next(), due).finally(() => underWay.delete(sent));
    underWay.add(sent);
  }
  await Promise.all(underWay);
  const elapsedMs = performance.now() - begun;
  await agent.close();

  const all = [...times.values()].flat();
  return {
    arrivals,
    answered: all.length,
    failures,
    throughput: all.length / (elapsedMs / 1_000),
    all: latenciesOf(all),
    byName: Object.fromEntries([...times].map(([name, list]) => [name, latenciesOf(list)])),
  };
}

/** @param times in milliseconds, in any order */
export function latenciesOf(times: number[]): Latencies {
  const sorted = Float64Array.from(times).sort();
  const at = (part: number) =>
    sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)] ?? Number.NaN;
  return {
    count: sorted.length,
    p50: at(0.5),
    p90: at(0.9),
    p99: at(0.99),
    p999: at(0.999),
    max: at(1),
  };
}
