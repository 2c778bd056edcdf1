/** How the steps of an operation are shown while they are carried out. */
import pc from 'picocolors';
import type { ChangeProgress } from '../operate/operations/change.ts';
import { duration } from './output.ts';

/** On the terminal, one line a step; as JSON, one object a line. */
export function operationProgress(json: boolean): ChangeProgress {
  if (json) {
    const print = (value: object) => {
      process.stdout.write(`${JSON.stringify(value)}\n`);
    };
    return {
      begin: (step, number, total) => print({ event: 'begin', step, number, total }),
      note: text => print({ event: 'note', text }),
      done: (step, ms) => print({ event: 'done', step, ms: Math.round(ms) }),
      takingBack: error => print({ event: 'taking back', reason: (error as Error).message }),
    };
  }
  const isTerminal = process.stdout.isTTY;
  return {
    begin(what, number, total) {
      if (isTerminal) process.stdout.write(`  ${pc.dim(`… ${number}/${total} ${what}`)}\r`);
    },
    note(text) {
      if (isTerminal) process.stdout.write(`\u001b[2K  ${pc.dim(`… ${text}`)}\r`);
    },
    done(what, ms) {
      if (isTerminal) process.stdout.write('\u001b[2K');
      process.stdout.write(`  ${pc.green('✔')} ${what} ${pc.dim(duration(ms))}\n`);
    },
    takingBack(error) {
      if (isTerminal) process.stdout.write('\u001b[2K');
      // The whole of it is told at the end, when it is clear what became of it.
      const [first = ''] = (error as Error).message.split('\n', 1);
      process.stdout.write(`  ${pc.red('✖')} ${first}\n${pc.yellow('  taking it back …')}\n`);
    },
  };
}
