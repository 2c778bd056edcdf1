/**
 * Shows a value of a topology in an error, and no secret in it. Pure.
 *
 * A mistake stands in terminals, logs and issue trackers. The value at fault may be a database URL, an
 * object with one in it, or a URL under a misspelt key; so what may be a secret by its name or by its
 * look is hidden wherever it stands.
 */

/** Keys whose values are hidden, and `env`, where secrets usually are. */
const SECRET_KEY = /^env$|ur[li]$|dsn|passw|pwd|secret|token|key$|credential/i;

const HIDDEN = '…';
const LIMIT = 80;

/** @param keys the path of the value */
export function show(keys: string[], value: unknown): string {
  if (typeof value === 'function') return 'a function';
  if (value === undefined || value === null) return String(value);
  // An object under a harmless name is shown, with what is secret in it hidden.
  const isHidden = keys.some(key => SECRET_KEY.test(key));
  if (isHidden) return typeof value === 'object' ? 'an object' : JSON.stringify(HIDDEN);
  const text = toText(value);
  return text.length > LIMIT ? `${text.slice(0, LIMIT - 1)}…` : text;
}

function toText(value: unknown): string {
  try {
    return JSON.stringify(value, hideSecrets) ?? String(value);
  } catch {
    return 'an object that contains itself';
  }
}

function hideSecrets(key: string, value: unknown): unknown {
  if (SECRET_KEY.test(key) && value !== undefined && value !== null) return HIDDEN;
  if (typeof value === 'string') return hideCredentials(value);
  // What JSON has no word for.
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'function') return 'a function';
  if (typeof value === 'number' && !Number.isFinite(value)) return String(value);
  return value;
}

/** `postgres://user:password@host/name?password=…` */
function hideCredentials(text: string): string {
  return text
    .replace(/\S+@/g, `${HIDDEN}@`)
    .replace(/((?:passw|pwd|secret|token|key)[^=\s]*=)[^&\s]*/gi, `$1${HIDDEN}`);
}
