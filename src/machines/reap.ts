/** What the guardian becomes when its supervisor is gone: stops the recorded units, and ends. */
import { endLeftovers } from './leftovers.ts';
import { UnitRecords } from './records.ts';

const [folder] = process.argv.slice(2);
if (!folder) throw new Error('usage: reap FOLDER-OF-UNIT-RECORDS');
await endLeftovers(new UnitRecords(folder));
