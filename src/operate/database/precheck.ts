/** What can be found out about the database tier before anything is touched. */
import { BanyanError } from '../../errors.ts';
import { readRuntimeMap } from '../../map/map-file.ts';
import { ClusterHome, findClusterPrograms } from './cluster-home.ts';
import { type DatabaseContext, recordOf } from './context.ts';
import type { DatabaseStep } from './plan.ts';
import { findPrimary } from './primary.ts';
import { withClient } from './provision.ts';
import { requireDisk, requireMemory } from './room.ts';
import { superuserUrl } from './running.ts';
import type { DatabaseShape } from './shape.ts';

export class EtcdCountFixed extends BanyanError {
  constructor(present: number, wanted: number) {
    super('ETCD_COUNT_FIXED', {
      what: `The number of etcd's members cannot be changed while the database is replicated: there ${present === 1 ? 'is' : 'are'} ${present}, and ${wanted} are asked for`,
      where: 'database.etcd',
      remedy: `Nothing was changed. Write \`etcd: ${present}\`; to change it, go to \`replicas: 0\` and back, which is online too`,
    });
  }
}

/** @throws BackrestMissing, RepositoryUnusable, SystemPostgresMissing, PatroniMissing, EtcdMissing, NoRoom, EtcdCountFixed */
export async function precheckDatabase(
  { deployment }: DatabaseContext,
  shape: DatabaseShape,
  steps: DatabaseStep[],
): Promise<void> {
  const nodes = steps.filter(step => step.do === 'start-node').length;
  if (shape.kind === 'cluster') {
    const present = recordOf(deployment).cluster?.etcd.length ?? 0;
    if (present > 0 && present !== shape.etcd) throw new EtcdCountFixed(present, shape.etcd);
    if (steps.length > 0) {
      findClusterPrograms();
      // Its folder is made and tried too, before any server is told to archive into it.
      if (shape.settings.backup) {
        await (await ClusterHome.open(deployment)).repository(shape.settings);
      }
    }
    await requireMemory(nodes, shape.settings);
  }
  const copies = nodes + steps.filter(step => step.do === 'start-embedded').length;
  if (copies === 0) return;
  const { members } = readRuntimeMap(deployment.paths.map).database.shards[0]!;
  const primary = await findPrimary(deployment, members);
  const sizeMb = await withClient(
    superuserUrl(deployment, primary, deployment.database),
    async client => {
      const { rows } = await client.query<{ mb: number }>(
        'select (pg_database_size(current_database()) / 1024 / 1024)::int as mb',
      );
      return rows[0]!.mb;
    },
  );
  await requireDisk(deployment.paths.root, copies, sizeMb);
}
