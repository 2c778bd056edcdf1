/** Checks what came from outside against a schema, and says what is wrong field by field. */
import * as v from 'valibot';
import { type FieldErrors, invalid } from '../problem.ts';

export const BLANK = "can't be blank";

/** @throws Problem 422 with the first message of each field */
export function validate<Schema extends v.GenericSchema>(
  schema: Schema,
  input: unknown,
): v.InferOutput<Schema> {
  const result = v.safeParse(schema, input, { abortPipeEarly: true });
  if (result.success) return result.output;
  const errors: FieldErrors = {};
  for (const issue of result.issues) {
    const field = String(issue.path?.[0]?.key ?? 'body');
    errors[field] ??= [issue.message];
  }
  throw invalid(errors);
}

/** The fields in the envelope that the API's bodies have: `{"user": {…}}`. */
export function unwrap(body: unknown, name: string): Record<string, unknown> {
  const inner = isObject(body) ? body[name] : undefined;
  if (!isObject(inner)) throw invalid({ [name]: [BLANK] });
  return inner;
}

/** Whether a path has the character NUL in it, decoded or not. */
export function hasNul(path: string): boolean {
  return path.includes('\0') || path.includes('%00');
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
