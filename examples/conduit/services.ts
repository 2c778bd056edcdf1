/** What every request handler works with, made once for each process. */
import path from 'node:path';
import {
  type Assets,
  type Cache,
  createAssets,
  createCache,
  createQueue,
  createSessions,
  type Pool,
  type Queue,
  type Sessions,
  type SessionVariables,
} from 'banyan';
import { createTokens, type Tokens } from './auth/token.ts';
import { type Database, openDatabase } from './db/database.ts';
import type { User } from './db/users.ts';
import { ViewCounter } from './jobs/view-counter.ts';
import { defaultFolder, type Mailer, mailFolder } from './mail/folder.ts';

/** What the pages keep in a session. */
export interface SessionData {
  /** Shown on the next page, once. */
  flash: string;
}

export interface Services {
  db: Database;
  /** Of what is the same for all who ask; what changes in the database it sees by itself. */
  cache: Cache;
  /** What need not be done before the answer: jobs/. */
  queue: Queue;
  views: ViewCounter;
  mailer: Mailer;
  sessions: Sessions<SessionData>;
  tokens: Tokens;
  /** The files of `public/`, under `/static`. */
  assets: Assets;
}

/** Of the pages: who is looking is known by the session. */
export interface PageEnv {
  Variables: SessionVariables<SessionData> & { viewer: User | undefined };
}

/** Of the API: who is looking is known by the token. */
export interface ApiEnv {
  Variables: { viewer: User | undefined };
}

export function createServices(pool: Pool): Services {
  const folder = path.join(import.meta.dirname, 'public');
  const db = openDatabase(pool);
  const queue = createQueue({ pool });
  return {
    db,
    cache: createCache({ pool }),
    queue,
    views: new ViewCounter(queue, db),
    mailer: mailFolder(process.env.MAIL_FOLDER || defaultFolder()),
    sessions: createSessions({ pool }),
    tokens: createTokens(),
    assets: createAssets({ folder, prefix: '/static' }),
  };
}
