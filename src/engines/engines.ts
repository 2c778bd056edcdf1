/** The engines by the names that unit specifications give. A new engine is one more line here. */
import type { EngineSupport } from '../machines/unit.ts';
import { autoscalerEngine } from './autoscaler.ts';
import { copiesEngine } from './copies.ts';
import { etcdEngine } from './etcd.ts';
import { haproxyEngine } from './haproxy.ts';
import { invalidatorEngine } from './invalidator.ts';
import { patroniEngine } from './patroni.ts';
import { postgresEngine } from './postgres.ts';
import { epmdEngine, rabbitMqEngine } from './rabbitmq.ts';
import { redisEngine } from './redis.ts';
import { webServerEngine } from './web-server.ts';
import { workerEngine } from './worker.ts';

export const ENGINES: Readonly<Record<string, EngineSupport>> = {
  postgres: postgresEngine,
  etcd: etcdEngine,
  patroni: patroniEngine,
  'web-server': webServerEngine,
  worker: workerEngine,
  haproxy: haproxyEngine,
  autoscaler: autoscalerEngine,
  copies: copiesEngine,
  redis: redisEngine,
  epmd: epmdEngine,
  rabbitmq: rabbitMqEngine,
  invalidator: invalidatorEngine,
};
