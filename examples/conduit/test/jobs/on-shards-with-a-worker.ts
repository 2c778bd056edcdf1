import '../api/on-shards.ts';
import { runOn, topology } from '../api/topology.ts';
import { MAIL_FOLDER } from './mails.ts';

runOn({
  ...topology,
  web: { env: { MAIL_FOLDER, CONDUIT_JOBS: 'off' } },
  workers: { servers: 1 },
});
