/** Carries the steps of a plan out, each told when it begins and when it is done: the same for every tier. */

/** What is told of the steps. */
export interface StepProgress {
  /** A step begins; `number` of `total`. */
  begin?: (what: string, number: number, total: number) => void;
  /** How far a long step is. */
  note?: (text: string) => void;
  /** A step is done. */
  done?: (what: string, ms: number) => Promise<void> | void;
}

/** @throws whatever a step throws: what comes after it is not begun */
export async function carryOutSteps<Step>(
  steps: readonly Step[],
  explain: (step: Step) => { what: string },
  carryOut: (step: Step) => Promise<void>,
  progress: StepProgress,
): Promise<void> {
  for (const [index, step] of steps.entries()) {
    const { what } = explain(step);
    const begun = performance.now();
    progress.begin?.(what, index + 1, steps.length);
    await carryOut(step);
    await progress.done?.(what, performance.now() - begun);
  }
}
