import { runOn } from './topology.ts';

/** Two web servers picked at random, a primary and two replicas, and a Redis between: whoever wrote sees it, wherever he is sent. */
runOn({
  web: { servers: 2 },
  balancer: { algorithm: 'random' },
  database: { replicas: 2, memoryMb: 64 },
  cache: { servers: 1, memoryMb: 16 },
});
