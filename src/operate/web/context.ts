/** What the operations on the web tier work with. */
import type { Machine, SocketAddress } from '../../machines/unit.ts';
import { applicationEnv, type ExternalUrls } from '../application-env.ts';
import { changeMap } from '../change-map.ts';
import type { Circumstances } from '../control/protocol.ts';
import type { Deployment } from '../deployment.ts';
import { releaseFolder } from '../releases/folder.ts';
import type { WebShape } from './shape.ts';

export interface WebContext {
  machine: Machine;
  deployment: Deployment;
  /** For the web servers: environment without `PORT` and its like. */
  env: NodeJS.ProcessEnv;
  /** What `banyan up` was given. */
  environment: NodeJS.ProcessEnv;
  /** Where users connect, as it really is: no port 0. */
  publicPort: number;
  /** Where a release's servers run; the application's own folder for 0. */
  releaseFolder: (release: number) => string;
  /** Publishes each server's share of the database's connections in the runtime map. */
  shareConnections: (connectionsPerServer: number) => Promise<void>;
}

export function webContext(options: {
  machine: Machine;
  deployment: Deployment;
  shape: WebShape;
  circumstances: Circumstances;
  external?: ExternalUrls;
}): WebContext {
  const { machine, deployment, shape, circumstances, external } = options;
  const { paths } = deployment;
  return {
    machine,
    deployment,
    env: applicationEnv(
      deployment,
      shape.web,
      circumstances.databaseUrl,
      circumstances.environment,
      external,
    ),
    environment: circumstances.environment,
    publicPort: circumstances.publicPort,
    releaseFolder: release => releaseFolder(paths, release),
    async shareConnections(connectionsPerServer) {
      await changeMap(paths.map, map => ({
        ...map,
        database: { ...map.database, connectionsPerServer },
      }));
    },
  };
}

/** The public address of a server that is direct, or of a balancer. */
export function publicAddress(context: WebContext, host: string): SocketAddress {
  return { host, port: context.publicPort };
}
