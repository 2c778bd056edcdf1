import { runOn } from '../api/topology.ts';
import { MAIL_FOLDER } from './mails.ts';

runOn({ web: { env: { MAIL_FOLDER } } });
