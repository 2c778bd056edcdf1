/** The engines by the names that unit specifications give. A new engine is one more line here. */
import type { EngineSupport } from '../machines/unit.ts';
import { autoscalerEngine } from './autoscaler.ts';
import { haproxyEngine } from './haproxy.ts';
import { postgresEngine } from './postgres.ts';
import { webServerEngine } from './web-server.ts';

export const ENGINES: Readonly<Record<string, EngineSupport>> = {
  postgres: postgresEngine,
  'web-server': webServerEngine,
  haproxy: haproxyEngine,
  autoscaler: autoscalerEngine,
};
