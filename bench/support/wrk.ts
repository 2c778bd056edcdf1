/** The load generator of the web tier's benchmarks: wrk, which costs a fifth of what a client in Node does. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

export interface Measured {
  requestsPerSecond: number;
  /** In milliseconds. */
  p50: number;
  p99: number;
}

/**
 * Closed loop: each connection asks again as soon as it is answered.
 * @throws when a request failed: a benchmark of failures measures nothing
 */
export async function wrk(url: string, connections: number, seconds: number): Promise<Measured> {
  const { stdout } = await promisify(execFile)('wrk', [
    '--latency',
    '-t1',
    `-c${connections}`,
    `-d${seconds}s`,
    url,
  ]).catch(error => {
    if (error.code === 'ENOENT') {
      throw new Error('wrk is not installed: sudo apt-get install -y wrk');
    }
    throw error;
  });
  if (/Non-2xx|Socket errors/.test(stdout))
    throw new Error(`requests failed at ${url}:\n${stdout}`);
  return {
    requestsPerSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1]),
    p50: milliseconds(/50%\s+(\S+)/.exec(stdout)?.[1]),
    p99: milliseconds(/99%\s+(\S+)/.exec(stdout)?.[1]),
  };
}

function milliseconds(text = ''): number {
  const [, number, unit] = /^([\d.]+)(us|ms|s)$/.exec(text) ?? [];
  return Number(number) * ({ us: 0.001, ms: 1, s: 1_000 }[unit ?? ''] ?? Number.NaN);
}

/** Of several rounds: the middle one by each figure. */
export function middle(rounds: Measured[]): Measured {
  const of = (figure: keyof Measured) =>
    rounds.map(round => round[figure]).sort((a, b) => a - b)[Math.floor(rounds.length / 2)]!;
  return { requestsPerSecond: of('requestsPerSecond'), p50: of('p50'), p99: of('p99') };
}
