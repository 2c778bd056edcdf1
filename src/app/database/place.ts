/** Where a pool's connections lead, and how many there may be. */
import type { Member, RuntimeMap } from '../../map/runtime-map.ts';

/** pg-pool's own default. */
const DEFAULT_MAX = 10;

/** What this server may hold, so that all of them together never take the database's last connection. */
export function shareOf(map: RuntimeMap, wanted: number | undefined): number {
  const share = map.database.connectionsPerServer;
  if (share === undefined) return wanted ?? DEFAULT_MAX;
  return Math.min(share, wanted ?? share);
}

/** The URL with another host and port; as it is without a member. */
export function atMember(connectionString: string, member: Member | undefined): string {
  if (!member) return connectionString;
  const url = new URL(connectionString);
  url.hostname = member.host.includes(':') ? `[${member.host}]` : member.host;
  url.port = String(member.port);
  return url.href;
}
