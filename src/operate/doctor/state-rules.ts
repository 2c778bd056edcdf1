/**
 * What an application's source tells of state that it keeps in its server: rules of thumb over its text.
 * Pure.
 *
 * They know the packages that people use and the ways to call them, and see no further: a finding is a
 * place to look at, and an application without findings may still keep state.
 */
import type { SourceFile } from './sources.ts';

export interface StateFound {
  file: string;
  line: number;
  /** `warning`: with several servers it goes wrong. `hint`: it may, or is merely done by each of them. */
  verdict: 'warning' | 'hint';
  /** What it does, after "it": `keeps sessions in its memory (express-session without a store)`. */
  what: string;
  remedy: string;
  /** A client that stays on its server finds it there. */
  stickyHelps: boolean;
}

interface Rule extends Pick<StateFound, 'verdict' | 'what' | 'remedy' | 'stickyHelps'> {
  /** Positions in the text where it applies. */
  find: (text: string) => number[];
}

const SESSIONS_REMEDY =
  'Keep them in PostgreSQL: `createSessions({ pool })` from banyan, or a store of that package';
const FILES_REMEDY =
  'Another server does not have the file, and a release runs in a new folder: keep it in PostgreSQL or in an object store';
const EACH_REMEDY =
  'Each server does it: let the one that gets `pg_try_advisory_lock` do it, or a process of its own';

const RULES: Rule[] = [
  {
    verdict: 'warning',
    what: 'keeps sessions in its memory (express-session without a store)',
    remedy: SESSIONS_REMEDY,
    stickyHelps: true,
    find: text =>
      importedNames(text, 'express-session').flatMap(name =>
        calls(text, new RegExp(`\\b${name}\\s*\\(`, 'g'), args => !mentions(args, 'store')),
      ),
  },
  {
    verdict: 'warning',
    what: 'keeps sessions in its memory (@fastify/session without a store)',
    remedy: SESSIONS_REMEDY,
    stickyHelps: true,
    find: text =>
      importedNames(text, '@fastify/session').flatMap(name =>
        calls(
          text,
          /\.register\s*\(/g,
          args => new RegExp(`^\\s*${name}\\b`).test(args) && !mentions(args, 'store'),
        ),
      ),
  },
  {
    verdict: 'warning',
    what: 'keeps sessions in its memory (a memory store)',
    remedy: SESSIONS_REMEDY,
    stickyHelps: true,
    find: text => [
      ...positions(text, /new\s+(?:\w+\.)?(?:Memory|SessionMemory)Store\s*\(/g),
      ...importsOf(text, /memorystore|session-memory-store/),
    ],
  },
  {
    verdict: 'warning',
    what: 'writes a file beside the application',
    remedy: FILES_REMEDY,
    stickyHelps: false,
    find: text => {
      const places = placesBeside(text);
      return calls(
        text,
        /\b(?:writeFile|writeFileSync|appendFile|appendFileSync|createWriteStream|outputFile|outputJson|writeJson)\s*\(/g,
        args =>
          isBesideTheApplication(args) ||
          places.some(name => new RegExp(`\\b${name}\\b`).test(firstArgument(args))),
      );
    },
  },
  {
    verdict: 'warning',
    what: 'keeps uploads on the disk of the server that got them (multer)',
    remedy: `${FILES_REMEDY}; multer’s \`memoryStorage\` hands the bytes over`,
    stickyHelps: false,
    find: text =>
      importsOf(text, /multer/).length === 0
        ? []
        : calls(
            text,
            /\b(?:multer|diskStorage)\s*\(/g,
            args => mentions(args, 'dest') || mentions(args, 'destination'),
          ),
  },
  {
    verdict: 'warning',
    what: 'keeps data in a database of its own (SQLite)',
    remedy: 'Each server has its own file: use PostgreSQL, by `createPool()` or `DATABASE_URL`',
    stickyHelps: false,
    find: text =>
      importsOf(text, /better-sqlite3|sqlite3|sqlite|node:sqlite|bun:sqlite|@libsql\/client/),
  },
  {
    verdict: 'warning',
    what: 'keeps data in a file of its own',
    remedy: 'Each server has its own: use PostgreSQL, by `createPool()` or `DATABASE_URL`',
    stickyHelps: false,
    find: text =>
      importsOf(text, /lowdb|nedb|@seald-io\/nedb|nedb-promises|node-persist|level|lmdb/),
  },
  {
    verdict: 'warning',
    what: 'sends messages only to the sockets of its own server (socket.io without an adapter)',
    remedy:
      'Give it `@socket.io/postgres-adapter`; its long polling also wants `web: { sticky: true }`, or `transports: ["websocket"]`',
    stickyHelps: false,
    find: text => (/\badapter\b/.test(text) ? [] : importsOf(text, /socket\.io/)),
  },
  {
    verdict: 'hint',
    what: 'runs jobs by the clock in each server',
    remedy: EACH_REMEDY,
    stickyHelps: false,
    find: text => [
      ...importsOf(
        text,
        /node-cron|cron|node-schedule|croner|toad-scheduler|@nestjs\/schedule|bree/,
      ),
      ...positions(text, /^(?:await\s+|const\s+\w+\s*=\s*)?setInterval\s*\(/gm),
    ],
  },
  {
    verdict: 'hint',
    what: 'counts requests in its own memory, each server for itself',
    remedy: '`balancer.rateLimit` counts for all servers; or give it a shared store',
    stickyHelps: false,
    find: text => [
      ...[/express-rate-limit/, /hono-rate-limiter/, /@fastify\/rate-limit/].flatMap(name =>
        /\b(?:store|redis)\b/.test(text) ? [] : importsOf(text, name),
      ),
      ...positions(text, /new\s+RateLimiterMemory\s*\(/g),
    ],
  },
  {
    verdict: 'hint',
    what: 'keeps a cache in its own memory',
    remedy: 'Each server has its own: right where an old value does no harm for a while',
    stickyHelps: false,
    find: text =>
      importsOf(text, /lru-cache|node-cache|memory-cache|quick-lru|@isaacs\/ttlcache|mnemonist/),
  },
  {
    verdict: 'hint',
    what: 'seems to keep what clients do in a variable of its own',
    remedy: 'Another server does not know it: keep it in PostgreSQL, or in the session',
    stickyHelps: true,
    find: text =>
      positions(
        text,
        /^(?:export\s+)?(?:const|let|var)\s+\w*(?:sessions?|carts?|users?|rooms?|players?|games?|tokens?|clients?)(?:By\w+)?\s*(?::[^=\n]+)?=\s*(?:new\s+(?:Map|Set)\b|\{\s*\}|\[\s*\])/gim,
      ),
  },
];

export function findState(sources: SourceFile[]): StateFound[] {
  return sources.flatMap(({ file, text }) => {
    const found = RULES.flatMap(({ find, ...rule }) =>
      find(text).map(position => ({ file, line: lineAt(text, position), ...rule })),
    );
    return found.toSorted((a, b) => a.line - b.line);
  });
}

/** The first argument is relative, or names the place of the source file or of the process. */
function isBesideTheApplication(args: string): boolean {
  const first = args.trim();
  if (/^['"`](?![/'"`]|\$\{|[a-z]+:\/\/)/i.test(first)) return true;
  const target = firstArgument(first);
  return /__dirname|__filename|import\.meta\.(?:dirname|filename|url)|process\.cwd\(\)/.test(
    target,
  );
}

/** Variables that hold the path of such a place. */
function placesBeside(text: string): string[] {
  return [...text.matchAll(/\b(?:const|let|var)\s+(\w+)\s*=\s*([^\n;]+)/g)]
    .filter(([, , value = '']) => NAMES_THE_PLACE.test(value))
    .map(([, name = '']) => name);
}

const NAMES_THE_PLACE =
  /__dirname|__filename|import\.meta\.(?:dirname|filename|url)|process\.cwd\(\)/;

/** Up to the first comma that is not in brackets. */
function firstArgument(args: string): string {
  let depth = 0;
  for (let at = 0; at < args.length; at++) {
    const letter = args[at]!;
    if ('([{'.includes(letter)) depth++;
    if (')]}'.includes(letter)) depth--;
    if (letter === ',' && depth === 0) return args.slice(0, at);
  }
  return args;
}

/** A key of that name, written out or for short. */
function mentions(args: string, key: string): boolean {
  return new RegExp(`\\b${key}\\b\\s*[:,}]|\\.\\.\\.`).test(args);
}

/** Positions of calls whose arguments, as text, are such. */
function calls(text: string, pattern: RegExp, isSuch: (args: string) => boolean): number[] {
  return [...text.matchAll(pattern)]
    .filter(({ index, 0: found }) => isSuch(argumentsAt(text, index + found.length)))
    .map(({ index }) => index);
}

const LONGEST_ARGUMENTS = 4_000;

/** What stands between the bracket before `start` and its other half. */
function argumentsAt(text: string, start: number): string {
  let depth = 1;
  for (let at = start; at < text.length && at < start + LONGEST_ARGUMENTS; at++) {
    if ('([{'.includes(text[at]!)) depth++;
    if (')]}'.includes(text[at]!) && --depth === 0) return text.slice(start, at);
  }
  return text.slice(start, start + LONGEST_ARGUMENTS);
}

function positions(text: string, pattern: RegExp): number[] {
  return [...text.matchAll(pattern)].map(({ index }) => index);
}

/** Where a package, by a pattern of its whole name, is imported, types apart. */
function importsOf(text: string, name: RegExp): number[] {
  const importing = new RegExp(
    `(?:^|\\n)[ \\t]*(?:import(?!\\s+type\\b)\\b[^;'"]*?['"]|[^\\n]*\\b(?:require|import)\\s*\\(\\s*['"])(?:${name.source})(?:/[^'"]*)?['"]`,
    'g',
  );
  return [...text.matchAll(importing)].map(({ index, 0: found }) => index + found.search(/\S/));
}

/** The names that a file gives to the default export of a package. */
function importedNames(text: string, name: string): string[] {
  const patterns = [
    new RegExp(`import\\s+(?:\\*\\s+as\\s+)?(\\w+)[^;'"]*?from\\s+['"]${name}['"]`, 'g'),
    new RegExp(`(?:const|let|var)\\s+(\\w+)\\s*=\\s*require\\s*\\(\\s*['"]${name}['"]`, 'g'),
    new RegExp(
      `import\\s*\\{[^}]*\\bdefault\\s+as\\s+(\\w+)[^}]*\\}\\s*from\\s+['"]${name}['"]`,
      'g',
    ),
  ];
  return patterns.flatMap(pattern => [...text.matchAll(pattern)].map(([, found]) => found!));
}

function lineAt(text: string, position: number): number {
  return text.slice(0, position).split('\n').length;
}
