/**
 * The shape of the deployment that the API's tests run on. The tests are the same on every rung: a file
 * that climbs higher sets this before it imports them.
 */
import type { Topology } from 'banyan';

export let topology: Topology = {};

export function runOn(higher: Topology): void {
  topology = higher;
}
