/**
 * State that is kept in a server: another server does not have it, and it is gone with its own. Found in
 * the application's sources and, while it is up, by what its servers have written.
 */
import type { CompleteTopology } from '../../topology/complete.ts';
import { ControlClient } from '../control/client.ts';
import type { DeploymentPaths } from '../deployment.ts';
import { releaseFolder } from '../releases/folder.ts';
import type { Finding, Verdict } from './examine.ts';
import { serverSources } from './sources.ts';
import { findState, type StateFound } from './state-rules.ts';
import { filesWritten } from './written-files.ts';

const CHECK = 'state';

/** More than these are summed up: whoever has so many knows what is meant. */
const MOST_FINDINGS = 12;
const MOST_FILES = 3;

const STICKY =
  '; or `web: { sticky: true }`: each client then stays on a server, loses its state with it and with every release, and load spreads by clients';

export async function examineState(
  paths: DeploymentPaths,
  { command, servers, sticky }: CompleteTopology['web'],
): Promise<Finding[]> {
  const { count, places } = await runningServers(paths);
  const isOne = Math.max(servers.max, count) === 1;
  const found = findState(serverSources(paths.app, command)).map(state =>
    asFinding(state, isOne, sticky),
  );
  for (const { folder, sinceMs } of places) {
    const files = await filesWritten(folder, sinceMs);
    if (files.length > 0) found.push(asFinding(writtenState(folder, files), isOne, sticky));
  }
  if (found.length === 0) {
    return [{ check: CHECK, verdict: 'ok', detail: 'none found that is kept in a server' }];
  }
  const shown = found.toSorted(bySeverity).slice(0, MOST_FINDINGS);
  const rest = found.length - shown.length;
  if (rest === 0) return shown;
  return [...shown, { check: CHECK, verdict: 'hint', detail: `and ${rest} more such places` }];
}

/** With one server nothing goes wrong yet; with `sticky` what is kept for a client is found again. */
function asFinding(
  state: Omit<StateFound, 'line'> & { line?: number },
  isOne: boolean,
  sticky: boolean,
): Finding {
  const { file, line, what, remedy, stickyHelps } = state;
  const verdict: Verdict = isOne || (sticky && stickyHelps) ? 'hint' : state.verdict;
  return {
    check: CHECK,
    verdict,
    detail: `${line === undefined ? file : `${file}:${line}`} ${what}`,
    remedy: stickyHelps && !sticky ? remedy + STICKY : remedy,
  };
}

function writtenState(folder: string, files: string[]): Omit<StateFound, 'line'> {
  const more = files.length > MOST_FILES ? ` and ${files.length - MOST_FILES} more` : '';
  return {
    file: folder,
    verdict: 'warning',
    what: `has files that were written while it was up: ${files.slice(0, MOST_FILES).join(', ')}${more}`,
    remedy:
      'Another server does not have them unless it shares this disk, and a release runs in a new folder: keep them in PostgreSQL or in an object store',
    stickyHelps: false,
  };
}

function bySeverity(a: Finding, b: Finding): number {
  return Number(b.verdict === 'warning') - Number(a.verdict === 'warning');
}

interface RunningServers {
  count: number;
  /** The folders that they run in, and since when. */
  places: { folder: string; sinceMs: number }[];
}

/** None when it is not up. */
async function runningServers(paths: DeploymentPaths): Promise<RunningServers> {
  try {
    const { units, since } = await new ControlClient(paths.socket, paths.app).status();
    const servers = units.filter(({ tier }) => tier === 'web');
    const folders = new Set(
      servers.map(({ labels }) => releaseFolder(paths, Number(labels.release ?? 0))),
    );
    const sinceMs = Date.parse(since);
    return { count: servers.length, places: [...folders].map(folder => ({ folder, sinceMs })) };
  } catch {
    return { count: 0, places: [] };
  }
}
