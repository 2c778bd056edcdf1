/** What every request handler works with, made once for each process. */
import path from 'node:path';
import {
  type Assets,
  type Cache,
  createAssets,
  createCache,
  createSessions,
  type Pool,
  type Sessions,
  type SessionVariables,
} from 'banyan';
import { createTokens, type Tokens } from './auth/token.ts';
import { type Database, openDatabase } from './db/database.ts';
import type { User } from './db/users.ts';

/** What the pages keep in a session. */
export interface SessionData {
  /** Shown on the next page, once. */
  flash: string;
}

export interface Services {
  db: Database;
  /** Of what is the same for all who ask; what changes in the database it sees by itself. */
  cache: Cache;
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
  return {
    db: openDatabase(pool),
    cache: createCache({ pool }),
    sessions: createSessions({ pool }),
    tokens: createTokens(),
    assets: createAssets({ folder, prefix: '/static' }),
  };
}
