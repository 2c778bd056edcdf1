/** Where a delivery is, for the engine on PostgreSQL: what it is found by, and who has it. */
import type { Delivery } from '../engine.ts';
import type { ShardWorker } from './shard-worker.ts';

export interface Receipt {
  readonly worker: ShardWorker;
  readonly workerId: string;
  readonly lease: string;
  readonly subscription: number;
  readonly position: string;
  readonly priority: number;
  readonly turn: number;
}

export const receiptOf = (delivery: Delivery): Receipt => delivery.receipt as Receipt;

/** By which rows of deliveries are found: their positions, priorities and turns. */
export const columnsOf = (receipts: readonly Receipt[]) => [
  receipts.map(({ position }) => position),
  receipts.map(({ priority }) => priority),
  receipts.map(({ turn }) => turn),
];

/** Names a delivery in this worker's hands. */
export const heldKey = ({ subscription, position, turn }: Receipt) =>
  `${subscription}/${position}/${turn}`;
