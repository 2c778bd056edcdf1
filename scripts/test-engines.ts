/**
 * Before the tests: installs the programs that they drive and that npm does not bring.
 *
 * On Debian and Ubuntu as root it installs what is missing; otherwise it prints the one command to
 * type and fails, since a test that is skipped because its engine is not there proves nothing.
 */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

interface Engine {
  program: string;
  /** Debian's packages that bring it. */
  package: string;
  why: string;
}

const ENGINES: Engine[] = [
  { program: 'haproxy', package: 'haproxy', why: 'the load balancer' },
  {
    program: 'keepalived',
    package: 'keepalived',
    why: 'checks the configuration that is made for it',
  },
  {
    program: 'pg_basebackup',
    package: 'postgresql-15',
    why: 'a primary and a standby; the npm package does not bring all programs',
  },
  {
    program: 'patroni',
    package: 'patroni python3-etcd python3-idna',
    why: 'a replicated database',
  },
  { program: 'etcd', package: 'etcd-server', why: 'where its servers agree on the primary' },
  { program: 'redis-server', package: 'redis-server', why: 'the cache that web servers share' },
  { program: 'rabbitmqctl', package: 'rabbitmq-server', why: 'a queue outside of PostgreSQL' },
  { program: 'cc', package: 'gcc libc6-dev', why: 'a machine whose clock is set' },
  { program: 'pgbackrest', package: 'pgbackrest', why: 'backups and their restore' },
  { program: 'chromium', package: 'chromium', why: 'the pages are tried in a real browser' },
];

/** Debian asks this before it starts a service: 101 means that none is started. */
const POLICY = '/usr/sbin/policy-rc.d';

const missing = ENGINES.filter(({ program }) => !isOnPath(program));
if (missing.length > 0) {
  const packages = [...new Set(missing.flatMap(engine => engine.package.split(' ')))];
  const command = `apt-get install -y --no-install-recommends ${packages.join(' ')}`;
  for (const { program, why } of missing) console.log(`missing: ${program} (${why})`);
  if (process.getuid?.() !== 0 || !isOnPath('apt-get')) {
    console.error(`\nThe tests need ${packages.join(', ')}. Type:\n\n    sudo ${command}\n`);
    process.exit(1);
  }
  install(command);
}

function install(command: string): void {
  const hadPolicy = existsSync(POLICY);
  if (!hadPolicy) writeFileSync(POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    const run = (line: string) => spawnSync('/bin/sh', ['-c', line], { env, encoding: 'utf8' });
    console.log(`installing: ${command}`);
    // The lists may be old or absent: only when it fails are they fetched, which takes longer.
    let result = run(command);
    if (result.status !== 0) {
      run('apt-get update');
      result = run(command);
    }
    if (result.status !== 0) {
      console.error(`${result.stdout}\n${result.stderr}\nIt could not be installed: ${command}`);
      process.exit(1);
    }
  } finally {
    if (!hadPolicy) rmSync(POLICY, { force: true });
  }
}

function isOnPath(program: string): boolean {
  // Debian keeps servers where an ordinary user's PATH does not look.
  const folders = [
    ...(process.env.PATH ?? '').split(path.delimiter),
    '/usr/sbin',
    '/sbin',
    '/usr/lib/postgresql/15/bin',
  ];
  return folders.some(folder => {
    try {
      accessSync(path.join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
