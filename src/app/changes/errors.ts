/** Why the log of a database cannot be read, in words for the person who has to change something. */
import { BanyanError } from '../../errors.ts';

/** The server does not write what is needed into its log. */
export class WalLevelTooLow extends BanyanError {
  constructor(where: string, level: string) {
    super('WAL_LEVEL_TOO_LOW', {
      what: `The database's log has too little in it: wal_level is ${level}`,
      where,
      remedy:
        'Set wal_level = logical and restart the server. On a managed database that is a setting of the provider: ' +
        'rds.logical_replication = 1 on Amazon RDS, cloudsql.logical_decoding = on on Google Cloud SQL, ' +
        'wal_level = logical among the server parameters on Azure',
    });
  }
}

/** The role may not read the log, or may not make what is needed for it. */
export class MayNotReadLog extends BanyanError {
  constructor(where: string, cause: unknown) {
    super('MAY_NOT_READ_LOG', {
      what: `The role may not read the database's log: ${(cause as Error).message}`,
      where,
      remedy:
        'Give it the right: `alter role … replication` (rds_replication on Amazon RDS), and make it the owner of the ' +
        'tables, or use a superuser',
      cause,
    });
  }
}

/** All of the server's slots are taken. */
export class NoSlotLeft extends BanyanError {
  constructor(where: string, cause: unknown) {
    super('NO_SLOT_LEFT', {
      what: "All of the server's replication slots or senders are in use",
      where,
      remedy:
        'Raise max_replication_slots and max_wal_senders and restart the server, or drop a slot that nobody ' +
        'reads: `select * from pg_replication_slots`',
      cause,
    });
  }
}

/** Publishing the table would make its UPDATEs and DELETEs fail. */
export class NoIdentity extends BanyanError {
  constructor(where: string, tables: readonly string[]) {
    super('NO_REPLICA_IDENTITY', {
      what: `The log could not tell which rows of ${tables.join(', ')} are changed: there is no primary key`,
      where,
      remedy: 'Give the table a primary key, or `alter table … replica identity full`',
    });
  }
}

/** A table that is to be read is not there. */
export class NoSuchTable extends BanyanError {
  constructor(where: string, tables: readonly string[]) {
    super('NO_SUCH_TABLE', {
      what: `The log of ${tables.join(', ')} is to be read, and there is no such table`,
      where,
      remedy: 'Name tables that are there, with their schema: `public.users`',
    });
  }
}
