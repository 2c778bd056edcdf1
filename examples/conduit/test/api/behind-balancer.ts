import { runOn } from './topology.ts';

/** Any of three servers may get any request, which one is left to chance. */
runOn({ web: { servers: 3 }, balancer: { algorithm: 'random' } });
