/** What `banyan status` tells: how a deployment fares at this moment, asked from the units themselves. */
import type { UnitState } from '../machines/unit.ts';

export interface Status {
  deployment: string;
  /** The application's folder. */
  folder: string;
  /** Where users reach it. */
  address: string;
  /** Process id of the supervisor. */
  supervisor: number;
  /** When it was started, as ISO 8601. */
  since: string;
  /** Epoch of the runtime map in force. */
  epoch: number;
  database: string;
  units: UnitState[];
}
