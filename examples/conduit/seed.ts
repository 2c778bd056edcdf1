/** Fills the deployment that is up with a social graph: `npm run seed -- --users 1000`. */
import { createPool } from 'banyan';
import { hashPassword } from './auth/password.ts';
import { load, NotEmpty, type Progress } from './seed/load.ts';
import { help, readOptions, type SeedOptions, WrongOption } from './seed/options.ts';

/** Everybody's, so that one can log in as anybody. */
const PASSWORD = 'conduit-demo';

const REPORT_EVERY_MS = 2_000;

function reporter(): Progress {
  let begun = performance.now();
  let reported = begun;
  const report = (sign: string, table: string, rows: number) => {
    const seconds = Math.max((performance.now() - begun) / 1_000, 0.001);
    const rate = Math.round(rows / seconds).toLocaleString('en');
    const figures = `${rows.toLocaleString('en').padStart(12)} rows ${seconds.toFixed(1).padStart(7)} s ${rate.padStart(10)} rows/s`;
    console.log(`  ${sign} ${table.padEnd(13)}${figures}`);
  };
  return {
    copying(table, rows) {
      if (performance.now() - reported < REPORT_EVERY_MS) return;
      reported = performance.now();
      report('…', table, rows);
    },
    copied(table, rows) {
      report('✔', table, rows);
      begun = reported = performance.now();
    },
  };
}

async function seed(options: SeedOptions): Promise<void> {
  const begun = performance.now();
  const pool = createPool({ max: 1 });
  let username: string;
  try {
    console.log(`Seeding ${options.users.toLocaleString('en')} people (seed ${options.seed})`);
    const passwordHash = await hashPassword(PASSWORD);
    username = await load(pool, { ...options, passwordHash, now: new Date() }, reporter());
  } finally {
    await pool.end();
  }
  const seconds = ((performance.now() - begun) / 1_000).toFixed(1);
  console.log(`Done in ${seconds} s. Everybody's password is ${PASSWORD}; log in for example as`);
  console.log(`  ${username}@example.com`);
}

try {
  const options = readOptions(process.argv.slice(2));
  if (options) await seed(options);
  else console.log(help());
} catch (error) {
  if (!(error instanceof NotEmpty || error instanceof WrongOption)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
