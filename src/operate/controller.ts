/**
 * The controller: a command that changes what runs. It reaches the supervisor, the catalog and the
 * balancers, and holds nothing that matters in its own memory: when it is killed, what runs goes on.
 */
import type { CompleteTopology } from '../topology/defaults.ts';
import { Catalog } from './catalog.ts';
import { reachDatabase } from './connect.ts';
import { ControlClient } from './control/client.ts';
import type { Circumstances } from './control/protocol.ts';
import type { Deployment, DeploymentPaths } from './deployment.ts';
import { loadTopology, withOverrides } from './load-topology.ts';
import { Journal } from './operations/journal.ts';
import { type WebContext, webContext } from './web/context.ts';
import { shapeOf, WEB_SHAPE, type WebShape } from './web/shape.ts';

export interface Controller {
  paths: DeploymentPaths;
  deployment: Deployment;
  topology: CompleteTopology;
  machine: ControlClient;
  catalog: Catalog;
  journal: Journal;
  databaseUrl: string;
  circumstances: Circumstances;
  /** The shape that was last reached. */
  present: WebShape;
  /** What operations on the web tier towards `shape` work with. */
  contextFor: (shape: WebShape) => WebContext;
}

/**
 * Runs `body` with a controller of the deployment, which must be up.
 * @throws NotRunning, and what reading the configuration throws
 */
export async function withController<T>(
  paths: DeploymentPaths,
  body: (controller: Controller) => Promise<T>,
): Promise<T> {
  const machine = new ControlClient(paths.socket, paths.app);
  const circumstances = await machine.circumstances();
  const loaded = await loadTopology(paths.app);
  const topology = withOverrides(loaded.topology, circumstances.overrides);
  const { deployment, url } = await reachDatabase(paths, topology);
  const catalog = await Catalog.open(url);
  try {
    const present = (await catalog.read<WebShape>(WEB_SHAPE)) ?? shapeOf(topology);
    return await body({
      paths,
      deployment,
      topology,
      machine,
      catalog,
      journal: new Journal(catalog),
      databaseUrl: url,
      circumstances,
      present,
      contextFor: shape =>
        webContext({ machine, deployment, shape, databaseUrl: url, circumstances }),
    });
  } finally {
    await catalog.close();
  }
}
