/**
 * The `banyan` command: reads the arguments and hands over to the file of the command.
 *
 * The commands' own files are loaded when they are run: `banyan up` must not wait for what only
 * `banyan sql` needs.
 */
import path from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { EXIT, printError } from './output.ts';
import { version } from './version.ts';

const program = new Command('banyan')
  .enablePositionalOptions()
  .description(
    'Grows a TypeScript web application from one server to millions of users: the same code, every step online, one command each.',
  )
  .version(version, '-V, --version')
  .showSuggestionAfterError()
  .showHelpAfterError('(see it with --help)')
  .configureHelp({ sortSubcommands: false })
  .addHelpText(
    'after',
    `
Examples:
  $ banyan init            add Banyan to the application in this folder
  $ banyan up              run it: database, migrations, web server
  $ banyan status          see how it fares (in another terminal)

Every command takes --dir FOLDER for another application than the one here, and --json for scripts.`,
  );

/** A command with what all of them have. */
function command(name: string, summary: string, examples: [command: string, what: string][]) {
  const width = Math.max(...examples.map(([text]) => text.length));
  const lines = examples.map(([text, what]) => `  $ ${text.padEnd(width)}   ${what}`);
  return program
    .command(name)
    .description(summary)
    .addOption(
      new Option('-C, --dir <folder>', "the application's folder")
        .default(process.cwd(), 'this folder')
        .argParser(folder => path.resolve(folder)),
    )
    .option('--json', 'print JSON, for scripts')
    .addHelpText('after', `\nExamples:\n${lines.join('\n')}`);
}

command('init', 'Adds Banyan to an existing application; shows what it will write and asks first', [
  ['banyan init', 'in the folder with your package.json'],
  ['banyan init --yes', 'without asking'],
])
  .option('-y, --yes', 'write without asking')
  .option('--dry-run', 'only show what would be written')
  .action(async options => (await import('./init.ts')).init(options));

command('up', 'Starts everything and stays with it; Ctrl-C stops everything again', [
  ['banyan up', 'in the folder of your application'],
  ['banyan up --detach', 'in the background; stop it with banyan down'],
  ['banyan up --port 8080', 'on another port'],
  ['banyan up --host 0.0.0.0', 'open to the network'],
])
  .option(
    '-p, --port <port>',
    'the port that users connect to (0: any free one)',
    wholeNumber(65_535),
  )
  .option('-H, --host <address>', 'the address to listen on')
  .option('-d, --detach', 'run in the background')
  .option('-v, --verbose', "show the database's log as well")
  .action(async options => (await import('./up.ts')).up(options));

command('down', 'Stops everything; the data stays', [['banyan down', '']]).action(async options =>
  (await import('./down.ts')).down(options),
);

command(
  'status',
  'Shows what runs and how it fares (exit code 0: all ready, 1: not all, 3: not up)',
  [
    ['banyan status', ''],
    ['banyan status --json | jq .units', 'for scripts'],
  ],
).action(async options => (await import('./status.ts')).status(options));

command(
  'metrics',
  'Prints what `status` and `queue` tell, for Prometheus; or answers its questions',
  [
    ['banyan metrics', 'once'],
    ['banyan metrics --listen 9464', 'at http://127.0.0.1:9464/metrics, until stopped'],
  ],
)
  .option('-l, --listen <port>', 'answer at this port (0: any free one)', wholeNumber(65_535))
  .option('-H, --host <address>', 'the address to listen on', '127.0.0.1')
  .action(async options => (await import('./metrics.ts')).metrics(options));

command('plan', 'Shows what `apply` would do, step by step, and what traffic would notice', [
  ['banyan plan', ''],
  ['banyan plan --json | jq .steps', 'for scripts'],
]).action(async options => (await import('./plan.ts')).plan(options));

command('apply', 'Makes what runs into what banyan.config.ts says, online; asks first', [
  ['banyan apply', 'shows the plan, asks, carries it out'],
  ['banyan apply --yes', 'without asking'],
])
  .option('-y, --yes', 'without asking')
  .action(async options => (await import('./plan.ts')).apply(options));

command('scale', 'Changes how many servers of a tier run, online', [
  ['banyan scale web=4', 'four web servers behind a load balancer'],
  ['banyan scale web=1', 'back to one'],
  ['banyan scale workers=2', 'two workers, which do what is published to the queue'],
  ['banyan scale cache=1', 'a Redis that all web servers share'],
  ['banyan scale cache=3', 'a Redis Cluster of three parts, each with a replica'],
  ['banyan scale cache=0', "each web server's own memory alone"],
  ['banyan scale queue=3', 'messages in a RabbitMQ cluster of three; 0 is PostgreSQL'],
])
  .argument('<tier=number>', 'web=4, workers=2, cache=1 or queue=3')
  .action(async (target, options) => (await import('./scale.ts')).scale(target, options));

command(
  'release',
  'Makes an immutable, numbered copy of the application and puts it to work, online',
  [
    ['banyan release', 'build, migrate, replace the servers one by one'],
    ["banyan release -m 'new editor'", 'with a remark'],
  ],
)
  .option('-m, --message <text>', 'a remark for `banyan releases`')
  .option(
    '--watch <seconds>',
    'how long to watch each new server for errors (default: 2)',
    wholeNumber(3_600),
  )
  .action(async options => (await import('./release.ts')).release(options));

command('releases', 'Shows the releases', [['banyan releases', '']]).action(async options =>
  (await import('./release.ts')).releases(options),
);

command('rollback', 'Goes back to an earlier release, online; the schema stays as it is', [
  ['banyan rollback', 'to the release before the one that serves'],
  ['banyan rollback 3', 'to release 3'],
  ['banyan rollback 0', "to the application's folder as it is"],
])
  .argument('[release]', 'its number', wholeNumber(1_000_000))
  .action(async (wanted, options) => (await import('./release.ts')).rollback(wanted, options));

command('switchover', 'Makes another database server the primary, online', [
  ['banyan switchover', 'the replica that acknowledges with the primary'],
  ['banyan switchover --to database-2', 'a certain one'],
])
  .option('--to <server>', 'a database server, such as database-2')
  .action(async options => (await import('./database.ts')).switchover(options));

command('failover', 'Makes a replica the primary when the last one is lost for good', [
  ['banyan failover database-2', ''],
])
  .argument('<server>', 'a database server, such as database-2')
  .action(async (name, options) => (await import('./database.ts')).failover(name, options));

command('restart', 'Restarts the database servers one by one, online: for a new minor version', [
  ['banyan restart', ''],
]).action(async options => (await import('./database.ts')).restart(options));

command('replace', 'Lets a new database server take the place of one, online', [
  ['banyan replace database-1', 'a copy is made, takes over if need be, and database-1 goes'],
])
  .argument('<server>', 'a database server, such as database-1')
  .action(async (name, options) => (await import('./database.ts')).replace(name, options));

command('backup', 'Makes a backup now, online; the log since then is archived all the time', [
  ['banyan backup', 'what changed since the last one'],
  ['banyan backup --full', 'everything'],
])
  .option('--full', 'everything, not only what changed')
  .action(async options => (await import('./backup.ts')).backup(options));

command('backups', 'Shows the backups, and what span of time can be restored', [
  ['banyan backups', ''],
]).action(async options => (await import('./backup.ts')).backups(options));

command(
  'restore',
  'Puts the database of another moment in the place of the present one; says what is lost, and asks first',
  [
    ["banyan restore --to '10m ago'", 'as it was ten minutes ago'],
    ["banyan restore --to '2026-11-25 19:07:23'", "in this machine's time zone"],
    ['banyan restore --to 20261125-190723F', 'as it was when a backup was made'],
    ['banyan restore --to latest', 'all that can be had, when the servers are lost'],
    ['banyan restore --undo', 'take the last restore back'],
  ],
)
  .option('--to <moment>', 'a time, `latest`, or the label of a backup')
  .option('--undo', 'take the last restore back')
  .option('--resume', 'finish a restore that was cut off')
  .option('--dry-run', 'only show what would be done')
  .option('-y, --yes', 'without asking')
  .action(async options => (await import('./restore.ts')).restore(options));

command('operations', 'Shows what was changed, when, and how it ended', [['banyan operations', '']])
  .option('-n, --lines <count>', 'how many', wholeNumber(10_000), 20)
  .action(async options => (await import('./operations.ts')).operations(options));

command('resume', 'Finishes an operation that was cut off', [['banyan resume', '']]).action(
  async options => (await import('./operations.ts')).resume(options),
);

command('undo', 'Takes back the operation that was cut off, or the last one that was done', [
  ['banyan undo', ''],
]).action(async options => (await import('./operations.ts')).undo(options));

command('logs', 'Shows what the units wrote', [
  ['banyan logs', 'the last lines of all units'],
  ['banyan logs web-1 -f', 'one unit, and whatever it writes from now on'],
  ['banyan logs -n 1000 postgres-1', 'the last thousand lines of the database'],
])
  .argument('[unit]', 'a unit, such as web-1 or postgres-1')
  .option('-f, --follow', 'go on with what is written from now on')
  .option('-n, --lines <count>', 'how many lines of the past', wholeNumber(10_000_000), 100)
  .action(async (unit, options) => (await import('./logs.ts')).logs(unit, options));

queueCommands();

command('sql', 'A prompt for SQL on the database, or one statement; needs no psql', [
  ['banyan sql', 'a prompt; \\? shows what it knows'],
  ["banyan sql 'select count(*) from users'", 'one statement'],
  ['banyan sql < report.sql', 'statements from a file'],
  ["banyan sql --json 'table users'", 'rows as JSON'],
  ["banyan sql 'explain select …'", 'which shards, why, what each is sent, and its plan'],
  ["banyan sql --shard 2 'table users'", 'what is on one shard of several'],
])
  .argument('[statement]', 'SQL; without it a prompt, or standard input')
  .option(
    '--shard <id>',
    'one shard alone. Default: the whole database, as the application sees it',
  )
  .option('--superuser', 'as PostgreSQL’s superuser, for what the owner may not do')
  .action(async (statement, options) => (await import('./sql.ts')).sql(statement, options));

command('run', "Runs a command with the application's environment: DATABASE_URL and the rest", [
  ['banyan run node seed.ts', 'a script that needs the database'],
  ['banyan run npx drizzle-kit studio', 'a tool'],
])
  .argument('<command...>', 'the command and its arguments')
  .passThroughOptions()
  .action(async (words, options) => (await import('./run.ts')).run(words, options));

command('doctor', 'Checks this machine and the application, and says how to mend what is missing', [
  ['banyan doctor', ''],
]).action(async options => (await import('./doctor.ts')).doctor(options));

program
  .command('autoscale', { hidden: true })
  .requiredOption('--dir <folder>')
  .requiredOption('--tier <tier>')
  .action(async options => (await import('./autoscale.ts')).autoscale(options));

program
  .command('keep-copies', { hidden: true })
  .requiredOption('--dir <folder>')
  .action(async options => (await import('./keep-copies.ts')).keepCopies(options));

program
  .command('invalidate', { hidden: true })
  .requiredOption('--dir <folder>')
  .requiredOption('--name <unit>')
  .action(async options => (await import('./invalidate.ts')).invalidate(options));

/** `banyan queue`, and what stands below it. */
function queueCommands(): void {
  const queue = command('queue', 'Shows what is in the queue, by topic and subscription', [
    ['banyan queue', 'depth, the oldest, rates, failures'],
    ['banyan queue dead welcome-mail', 'what could not be done, with payload and error'],
    ['banyan queue replay 7318349394477056', 'have it tried again'],
    ['banyan queue replay --all --topic welcome-mail', 'all of a topic'],
    ['banyan queue cancel 7318349394477056', 'take back what nobody has in hand'],
  ]).action(async options => (await import('./queue.ts')).list(options));
  // Options that stand before the name of the command below are the upper one's.
  const all = (given: object) => ({ ...queue.opts<{ dir: string }>(), ...given });
  queue
    .command('dead')
    .description('shows dead letters')
    .argument('[topic]', 'of this topic alone')
    .option('-n, --limit <count>', 'how many', wholeNumber(10_000), 100)
    .option('--json', 'print JSON, for scripts')
    .action(async (topic, options) => (await import('./queue.ts')).dead(topic, all(options)));
  for (const [name, summary] of [
    ['replay', 'delivers dead letters again, with all their attempts'],
    ['discard', 'deletes dead letters'],
  ] as const) {
    queue
      .command(name)
      .description(summary)
      .argument('[ids...]', 'as `banyan queue dead` shows them')
      .option('--all', 'all of them')
      .option('--topic <name>', 'those of a topic')
      .option('--json', 'print JSON, for scripts')
      .action(async (ids, options) => (await import('./queue.ts'))[name](ids, all(options)));
  }
  queue
    .command('cancel')
    .description('takes a message back that nobody has in hand')
    .argument('<id>', 'as `publish` returned it')
    .option('--json', 'print JSON, for scripts')
    .action(async (id, options) => (await import('./queue.ts')).cancel(id, all(options)));
}

function wholeNumber(max: number): (text: string) => number {
  return text => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value <= max) return value;
    throw new InvalidArgumentError(`Expected a whole number from 0 to ${max}.`);
  };
}

try {
  await program.parseAsync();
} catch (error) {
  printError(error, process.argv.includes('--json'));
  process.exitCode = EXIT.failed;
}
