/**
 * Renders keepalived's configuration for a pair of balancers on hosts of their own: one address that the
 * living one of them holds, by VRRP. Pure. (RFC 5798; man 5 keepalived.conf)
 */

import { createHash } from 'node:crypto';
import { isIPv6 } from 'node:net';

export interface KeepalivedSettings {
  deployment: string;
  /** This balancer's own address. */
  address: string;
  peers: string[];
  virtualAddress: string;
  /** The highest of those that live holds the address. */
  priority: number;
  /** Eight characters at most: what VRRP has room for. */
  password: string;
}

export function renderKeepalivedConfig(settings: KeepalivedSettings): string {
  const { deployment, address, peers, virtualAddress, priority, password } = settings;
  return `# Written by Banyan for the host with the address ${address}. Install keepalived there, and this
# file as /etc/keepalived/keepalived.conf; set \`interface\` to the network card.
global_defs {
  router_id ${deployment}_${address.replaceAll(/[.:]/g, '_')}
}
# The kernel tells of the end of the process: no script has to ask, nor an account to run it.
vrrp_track_process balancer {
  process haproxy
}
vrrp_instance ${deployment} {
  state BACKUP
  interface eth0
  virtual_router_id ${routerId(deployment)}
  priority ${priority}
  advert_int 1
  unicast_src_ip ${address}
  unicast_peer {
${peers.map(peer => `    ${peer}`).join('\n')}
  }
${isIPv6(virtualAddress) ? '' : authentication(password)}  virtual_ipaddress {
    ${virtualAddress}
  }
  track_process {
    balancer
  }
}
`;
}

/** 1 to 255; others in the same network want another. The same on both hosts, since it follows from the name. */
function routerId(deployment: string): number {
  return 1 + (createHash('sha256').update(deployment).digest()[0]! % 255);
}

/** VRRP for IPv6 knows none. (RFC 5798, 9) */
function authentication(password: string): string {
  return `  authentication {
    auth_type PASS
    auth_pass ${password}
  }
`;
}
