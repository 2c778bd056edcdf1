/** Steps in words: what is done, what traffic notices, how it is taken back. Pure. */
import type { Step } from './plan.ts';

export interface ExplainedStep {
  /** `+` starts something, `-` stops something, `~` changes something. */
  mark: '+' | '-' | '~';
  what: string;
  traffic: string;
  undo: string;
}

const NOTHING = 'nothing';

export function explain(step: Step): ExplainedStep {
  switch (step.do) {
    case 'share-connections':
      return {
        mark: '~',
        what: `share out the database's connections among ${count(step.servers, 'server')}`,
        traffic: NOTHING,
        undo: 'shared out again',
      };
    case 'start-server':
      return {
        mark: '+',
        what: `start ${step.name} and wait until it is ready`,
        traffic: step.direct ? 'it takes its part of new connections' : NOTHING,
        undo: `stop ${step.name}`,
      };
    case 'join':
      return {
        mark: '~',
        what: `let ${step.name} have requests`,
        traffic: 'requests are spread over one more server',
        undo: `drain ${step.name}`,
      };
    case 'leave':
      return {
        mark: '~',
        what: `give ${step.name} no new requests and wait for those in flight`,
        traffic: 'requests are spread over one server less; none is cut off',
        undo: `let ${step.name} have requests again`,
      };
    case 'stop-server':
      return {
        mark: '-',
        what: step.drain
          ? `stop ${step.name} when its requests in flight are done`
          : `stop ${step.name}`,
        traffic: NOTHING,
        undo: 'start another',
      };
    case 'set-weight':
      return {
        mark: '~',
        what: `give ${step.name} the weight ${step.weight}`,
        traffic: 'its share of the requests changes',
        undo: 'the weight that it had',
      };
    case 'start-balancer':
      return {
        mark: '+',
        what: `start ${step.name} on ${step.address.replace(' tls ', ', with HTTPS on port ')}`,
        traffic: 'new connections go through it',
        undo: `stop ${step.name}`,
      };
    case 'reload-balancer':
      return {
        mark: '~',
        what: `reload ${step.name} with its new settings`,
        traffic: 'no request; a WebSocket has `drainTimeoutMs` until it has to connect again',
        undo: 'the settings that it had',
      };
    case 'stop-balancer':
      return {
        mark: '-',
        what: `stop ${step.name} when its requests in flight are done`,
        traffic: 'new connections go elsewhere',
        undo: `start ${step.name}`,
      };
    case 'start-autoscaler':
      return {
        mark: '+',
        what: 'let the autoscaler watch over the number of servers',
        traffic: NOTHING,
        undo: 'stop it',
      };
    case 'stop-autoscaler':
      return {
        mark: '-',
        what: 'stop the autoscaler',
        traffic: NOTHING,
        undo: 'start it again',
      };
  }
}

function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? '' : 's'}`;
}
