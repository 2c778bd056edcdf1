/** `banyan status`: what runs, and how it fares. */
import pc from 'picocolors';
import type { Load } from '../app/database/shards/hot/load.ts';
import type { BackupStatus } from '../operate/backup/keeper.ts';
import type { CacheStatus } from '../operate/cache/status.ts';
import { ControlClient, NotRunning } from '../operate/control/client.ts';
import type { CopiesTold } from '../operate/database/copies/standing.ts';
import type { DatabaseServer } from '../operate/database/standing.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import type { ServerTraffic, Status } from '../operate/status.ts';
import { ago, type CommonOptions, columns, EXIT, printJson } from './output.ts';
import { describeQueueNode } from './queue-node.ts';

const MOST_HOT_KEYS = 5;

export async function status(options: CommonOptions): Promise<void> {
  const paths = new DeploymentPaths(options.dir);
  try {
    const found = await new ControlClient(paths.socket, paths.app).status();
    if (options.json) printJson({ running: true, ...found });
    else process.stdout.write(`${render(found)}\n`);
    if (found.units.some(unit => unit.phase !== 'ready')) process.exitCode = EXIT.failed;
  } catch (error) {
    if (!(error instanceof NotRunning)) throw error;
    if (options.json) printJson({ running: false, folder: paths.app });
    else
      process.stdout.write(
        `${pc.yellow('●')} not up ${pc.dim(`(${paths.app})`)}. Start it with: banyan up\n`,
      );
    process.exitCode = EXIT.notRunning;
  }
}

function render(found: Status): string {
  const rows = found.units.map(unit => [
    `  ${mark(unit.phase)} ${unit.name}`,
    unit.phase,
    unit.since ? `for ${ago(unit.since)}` : '',
    unit.pid ? `pid ${unit.pid}` : '',
    unit.restarts
      ? pc.yellow(`${unit.restarts} ${unit.restarts === 1 ? 'restart' : 'restarts'}`)
      : '',
    unit.labels.release ? `release ${unit.labels.release}` : '',
    unit.address ?? '',
    describeServer(found.databaseServers?.find(({ name }) => name === unit.name)),
    describeTraffic(found.traffic?.servers.find(({ name }) => name === unit.name)),
  ]);
  const reasons = found.units
    .filter(unit => unit.reason)
    .map(unit => pc.yellow(`  ${unit.name}: ${unit.reason}`));
  return [
    `${pc.bold(found.deployment)} ${pc.dim('·')} ${pc.cyan(found.address)} ${pc.dim(`· up for ${ago(found.since)}, supervisor pid ${found.supervisor}, map epoch ${found.epoch}`)}`,
    columns(rows),
    ...(found.traffic
      ? [
          pc.dim(
            `  ${found.traffic.requestRate} requests/s${found.traffic.queued ? `, ${found.traffic.queued} waiting` : ''}`,
          ),
        ]
      : []),
    ...(found.units.some(unit => unit.tier === 'database') ? [] : [`  ${pc.dim(found.database)}`]),
    ...(found.backup ? describeBackup(found.backup) : []),
    ...(found.cache ? describeCache(found.cache) : []),
    ...(found.queue ?? []).flatMap(describeQueueNode),
    ...(found.load ? describeLoad(found.load) : []),
    ...(found.loadAlerts ?? []).map(({ text }) => pc.yellow(`  hot: ${text}`)),
    ...(found.copies ? describeCopies(found.copies) : []),
    ...reasons,
  ].join('\n');
}

function describeServer(server: DatabaseServer | undefined): string {
  if (!server) return '';
  const { role, state, lagBytes, lagSeconds, pendingRestart } = server;
  const words = [role === 'primary' ? pc.bold(role) : role];
  if (!/^(running|streaming)$/.test(state)) words.push(pc.yellow(state));
  if (lagBytes !== undefined) {
    const seconds = lagSeconds === undefined ? '' : `, ${lagSeconds.toFixed(1)} s`;
    words.push(pc.dim(lagBytes === 0 ? 'up to date' : `behind by ${lagBytes} bytes${seconds}`));
  }
  if (pendingRestart) words.push(pc.yellow('a setting waits for a restart'));
  return words.join(', ');
}

/** Shares are of the last minutes. */
function describeLoad({ shards, hotKeys }: Load): string[] {
  const percent = (part: number) => `${Math.round(part * 100)} %`;
  const each = shards.map(
    ({ shard, shareOfCalls, shareOfTime }) =>
      `shard ${shard} ${percent(shareOfCalls)} of calls, ${percent(shareOfTime)} of time`,
  );
  const keys = hotKeys
    .slice(0, MOST_HOT_KEYS)
    .map(({ family, key, share, by }) =>
      pc.yellow(`  hot key: ${family} ${JSON.stringify(key)} takes ${percent(share)} of ${by}`),
    );
  return [pc.dim(`  ${each.join('; ')}`), ...keys];
}

/** What was told longer ago says nothing of now. */
const COPIES_SILENT_MS = 10_000;

function describeCopies({ at, filled, filling, shards }: CopiesTold): string[] {
  const bytes = shards.reduce((all, { lagBytes = 0 }) => all + lagBytes, 0);
  const seconds = Math.max(0, ...shards.map(({ lagSeconds = 0 }) => lagSeconds));
  const behind =
    bytes === 0 ? 'up to date' : `behind by ${bytes} bytes of log, ${seconds.toFixed(1)} s`;
  const trouble = shards
    .filter(({ state, failure }) => state !== 'reading' || failure)
    .map(({ shard, state, failure }) =>
      pc.yellow(`  copies: shard ${shard} is ${state}${failure ? `: ${failure}` : ''}`),
    );
  const silent = Date.now() - Date.parse(at) > COPIES_SILENT_MS;
  return [
    pc.dim(`  copies: ${filled.length} kept, ${behind}`),
    ...(filling.length > 0 ? [pc.yellow(`  copies: being filled: ${filling.join(', ')}`)] : []),
    ...(silent ? [pc.yellow(`  copies: nothing was heard of them for ${ago(at)}`)] : []),
    ...trouble,
  ];
}

function describeCache({ kind, invalidators, redis }: CacheStatus): string[] {
  const serving = invalidators.find(({ serves }) => serves);
  const lines: string[] = [];
  const percent = (part: number) => `${Math.round(part * 100)} %`;
  for (const { name, role, usedMb, maxMb, keys, hitRate, evicted } of redis) {
    const words = [
      role,
      `${usedMb} of ${maxMb} MB`,
      `${keys} keys`,
      ...(hitRate === undefined ? [] : [`${percent(hitRate)} hits`]),
      ...(evicted > 0 ? [`${evicted} evicted`] : []),
    ];
    lines.push(pc.dim(`  ${name}: ${words.join(', ')}`));
  }
  if (!serving) {
    return [...lines, pc.yellow('  cache: no invalidator serves, so nothing is cached')];
  }
  const { clusters, listeners, counts, hotKeys, storeTrouble } = serving;
  for (const { cluster, state, lagBytes, lagMs, lagP50Ms, lagP99Ms, tables, failure } of clusters) {
    const words = [
      ...(clusters.length > 1 ? [`shard ${cluster}`] : []),
      ...(state === 'reading' ? [] : [state]),
      `${tables} tables`,
      ...(lagBytes === undefined ? [] : [`behind by ${lagBytes} bytes, ${lagMs ?? 0} ms`]),
      ...(lagP50Ms === undefined ? [] : [`commit to cache ${lagP50Ms} ms, p99 ${lagP99Ms} ms`]),
    ];
    lines.push(pc.dim(`  ${serving.name}: ${words.join(', ')}`));
    if (failure) {
      const { what, remedy } = failure;
      lines.push(
        pc.yellow(
          `  cache: results of the database are not cached: ${what}${remedy ? `. ${remedy}` : ''}`,
        ),
      );
    }
  }
  const { localHits = 0, sharedHits = 0, joined = 0, loads = 0 } = counts;
  const hits = localHits + sharedHits + joined;
  if (hits + loads > 0) {
    lines.push(
      pc.dim(
        `  cache (${kind}): ${percent(hits / (hits + loads))} of ${hits + loads} answers without a load, in ${listeners} processes`,
      ),
    );
  }
  for (const { key, calls } of hotKeys.slice(0, MOST_HOT_KEYS)) {
    lines.push(pc.dim(`  hot in the cache: ${JSON.stringify(key)}, ${calls} calls`));
  }
  if (storeTrouble) lines.push(pc.yellow(`  cache: ${storeTrouble}`));
  return lines;
}

function describeTraffic(traffic: ServerTraffic | undefined): string {
  if (!traffic) return '';
  const { health, requests, inFlight, responseMs, errors5xx } = traffic;
  const words = [`${requests} requests`, `${inFlight} in flight`, `${responseMs} ms`];
  if (errors5xx > 0) words.push(pc.yellow(`${errors5xx} errors`));
  return `${/^UP/.test(health) ? '' : `${pc.red(health)} · `}${pc.dim(words.join(', '))}`;
}

function describeBackup({ last, isRunning, archiving, missing, failure }: BackupStatus): string[] {
  const words = [
    last ? `last ${last.kind} backup ${ago(last.endedAt)} ago` : 'no backup yet',
    ...(isRunning ? ['one is being made'] : []),
  ];
  const trouble = [
    ...(archiving?.failedAt
      ? [
          `the log is not archived (last tried at ${archiving.failedAt}): ${archiving.waiting} segments, ${Math.round(archiving.waitingBytes / 1_000_000)} MB, wait`,
        ]
      : []),
    ...(missing.length > 0
      ? [`${missing.length} segments of the log are missing in the repository; a backup is made`]
      : []),
    ...(failure ? [failure.what] : []),
  ];
  return [pc.dim(`  ${words.join(', ')}`), ...trouble.map(text => pc.yellow(`  backup: ${text}`))];
}

function mark(phase: string): string {
  return phase === 'ready' ? pc.green('●') : pc.yellow('●');
}
