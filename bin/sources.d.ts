/** In `dist`: the state of the sources that it was built from. */
export const BUILT_FROM: string;
/** Changes with each file that is changed, added, renamed or deleted. */
export function stateOfSources(folder: string): string;
/** Whether `dist` was built from `src` as it is now. */
export function isBuilt(src: string, dist: string): boolean;
