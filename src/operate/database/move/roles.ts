/** Roles and settings that belong to a server or a database and not to its schema, which `pg_dump` leaves out. */
import pg from 'pg';
import { REPLICATION_ROLE } from '../../../engines/patroni-config.ts';
import { SUPERUSER } from '../../../engines/postgres.ts';
import type { Queryable } from './movable.ts';

interface Role {
  name: string;
  options: string;
  password: string | null;
}

/** Copies roles with their passwords and memberships, and what is set for them and for the database. */
export async function copyRoles(
  source: Queryable,
  target: Queryable,
  database: string,
): Promise<void> {
  const roles = await source.query<Role>(
    `select rolname as name, rolpassword as password,
            concat_ws(' ',
              case when rolsuper then 'superuser' else 'nosuperuser' end,
              case when rolinherit then 'inherit' else 'noinherit' end,
              case when rolcreaterole then 'createrole' else 'nocreaterole' end,
              case when rolcreatedb then 'createdb' else 'nocreatedb' end,
              case when rolcanlogin then 'login' else 'nologin' end,
              case when rolreplication then 'replication' else 'noreplication' end,
              case when rolbypassrls then 'bypassrls' else 'nobypassrls' end,
              'connection limit ' || rolconnlimit) as options
     from pg_authid where rolname not like 'pg\\_%' and rolname <> all ($1)`,
    [[SUPERUSER, REPLICATION_ROLE]],
  );
  const present = await target.query<{ name: string }>('select rolname as name from pg_roles');
  const there = new Set(present.rows.map(({ name }) => name));
  for (const { name, options, password } of roles.rows) {
    const secret = password ? ` password ${pg.escapeLiteral(password)}` : '';
    const verb = there.has(name) ? 'alter' : 'create';
    await target.query(`${verb} role ${pg.escapeIdentifier(name)} with ${options}${secret}`);
  }
  const members = await source.query<{ role: string; member: string }>(
    `select r.rolname as role, m.rolname as member
     from pg_auth_members a join pg_roles r on r.oid = a.roleid join pg_roles m on m.oid = a.member
     where m.rolname not like 'pg\\_%' and m.rolname <> all ($1)`,
    [[SUPERUSER, REPLICATION_ROLE]],
  );
  for (const { role, member } of members.rows) {
    // A predefined role of a newer version is not there.
    if (role.startsWith('pg_') && !there.has(role)) continue;
    await target.query(`grant ${pg.escapeIdentifier(role)} to ${pg.escapeIdentifier(member)}`);
  }
  await copySettings(source, target, database);
}

async function copySettings(source: Queryable, target: Queryable, database: string): Promise<void> {
  const { rows } = await source.query<{ role: string | null; setting: string }>(
    `select r.rolname as role, unnest(s.setconfig) as setting
     from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole
     join pg_database d on d.oid = s.setdatabase where d.datname = $1`,
    [database],
  );
  const inDatabase = pg.escapeIdentifier(database);
  for (const { role, setting } of rows) {
    const [name, value] = split(setting);
    const who = role
      ? `role ${pg.escapeIdentifier(role)} in database ${inDatabase}`
      : `database ${inDatabase}`;
    await target.query(`alter ${who} set ${name} to ${pg.escapeLiteral(value)}`);
  }
}

function split(setting: string): [string, string] {
  const at = setting.indexOf('=');
  return [setting.slice(0, at), setting.slice(at + 1)];
}
