/** Metrics as Prometheus reads them. All of `prom-client` that is used is behind this file. */
import { Counter, Gauge, Registry } from 'prom-client';

export interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Metric {
  /** Without `banyan_`; with its unit, and `_total` if it only grows. */
  readonly name: string;
  readonly help: string;
  readonly samples: readonly Sample[];
}

export const CONTENT_TYPE = Registry.PROMETHEUS_CONTENT_TYPE;

/** Prometheus' text format. What has no samples is left out. */
export function expose(metrics: readonly Metric[]): Promise<string> {
  const registry = new Registry();
  for (const { name, help, samples } of metrics) {
    if (samples.length === 0) continue;
    const labelNames = [...new Set(samples.flatMap(({ labels }) => Object.keys(labels)))];
    const about = { name: `banyan_${name}`, help, labelNames, registers: [registry] };
    const metric = name.endsWith('_total') ? new Counter(about) : new Gauge(about);
    for (const { labels, value } of samples) metric.inc({ ...labels }, value);
  }
  return registry.metrics();
}
