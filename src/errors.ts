/**
 * The shape of every error that Banyan throws on purpose.
 *
 * The message is written for the person who reads it at three in the morning: what went wrong,
 * where, and what to do next. `code` is for programs; it is stable across versions.
 */

export interface ErrorDetails {
  /** What went wrong, as one sentence without a full stop. */
  what: string;
  /** Where: a path, a unit, a key of the configuration. */
  where?: string;
  /** What to do next: a command to type or a thing to change. */
  remedy?: string;
  cause?: unknown;
}

export class BanyanError extends Error {
  /** Stable name for programs, in capitals: `PORT_IN_USE`. */
  readonly code: string;
  readonly what: string;
  readonly where: string | undefined;
  readonly remedy: string | undefined;

  constructor(code: string, details: ErrorDetails) {
    const { what, where, remedy, cause } = details;
    super([where ? `${what} (${where})` : what, remedy].filter(Boolean).join('. '), { cause });
    this.name = new.target.name;
    this.code = code;
    this.what = what;
    this.where = where;
    this.remedy = remedy;
  }

  toJSON(): { code: string; what: string; where?: string; remedy?: string } {
    return {
      code: this.code,
      what: this.what,
      ...(this.where === undefined ? {} : { where: this.where }),
      ...(this.remedy === undefined ? {} : { remedy: this.remedy }),
    };
  }
}

/** True for an error of Node or PostgreSQL that carries the given `code`. */
export function hasCode(error: unknown, ...codes: string[]): boolean {
  return (
    typeof error === 'object' &&
    error !== null &&
    'code' in error &&
    codes.includes(String(error.code))
  );
}

/** Errors of the operating system that a user can do something about: what they mean, and what to do. */
const SYSTEM_ERRORS: Record<string, [what: string, remedy: string]> = {
  ENOSPC: ['The disk is full', 'Free some space; `df -h` shows where it went'],
  EDQUOT: ['Your disk quota is used up', 'Free some space, or ask for more'],
  EROFS: ['The file system can only be read', 'Use a folder on a file system that can be written'],
  EACCES: ['Permission was denied', 'Run the command as the account that owns the folder'],
  EPERM: ['Permission was denied', 'Run the command as the account that owns the folder'],
  EMFILE: ['Too many files are open', 'Raise the limit: `ulimit -n 65536`'],
  ENOMEM: ['There is not enough memory', 'Stop something else, or use a larger machine'],
};

/** An error of the operating system in the shape of ours; any other as it is. */
export function explainSystemError(error: unknown): unknown {
  if (error instanceof BanyanError || !(error instanceof Error)) return error;
  const { code = '', path, syscall } = error as NodeJS.ErrnoException;
  const known = SYSTEM_ERRORS[code];
  if (!known) return error;
  const [what, remedy] = known;
  return new BanyanError(code, {
    what: syscall ? `${what}: ${syscall} failed with ${code}` : what,
    ...(path ? { where: path } : {}),
    remedy,
    cause: error,
  });
}
