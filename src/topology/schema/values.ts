/** What the schemas of all tiers are made of. Messages say what would be right: they stand after "expected". */
import * as v from 'valibot';

/**
 * Plain objects alone; what they hold beside is found by `unknownKeys`, which, unlike valibot's
 * `strictObject`, finds them all. Valibot takes arrays and instances for objects too, and a list of `NAME=value`
 * under `env` would become the variables 0, 1 and 2.
 */
export const AN_OBJECT = 'an object { … }';
export const object = <const Entries extends v.ObjectEntries>(
  entries: Entries,
  allowed = AN_OBJECT,
) =>
  v.pipe(
    v.custom<v.InferInput<v.ObjectSchema<Entries, undefined>>>(isPlainObject, allowed),
    v.object(entries),
  );

// No operating system passes a zero byte on, neither in a command nor in a variable.
export const clean = v.regex(/^[^\0]*$/, 'text without a zero byte');
export const text = v.pipe(v.string('text'), v.trim(), v.nonEmpty('text that is not empty'), clean);
export const flag = v.boolean('true or false');
/** @param orElse what is allowed in its place, for the message */
export const whole = (min: number, max: number, orElse = '') => {
  const allowed = `a whole number from ${min} to ${max}${orElse}`;
  return v.pipe(
    v.number(allowed),
    v.integer(allowed),
    v.minValue(min, allowed),
    v.maxValue(max, allowed),
  );
};
export const port = whole(0, 65_535);
export const timeoutMs = whole(1, 3_600_000);

export const path = v.pipe(text, v.startsWith('/', 'a path that starts with /'));

/** Of those made by `either`: what an object has to be. */
const ofObjects = new WeakMap<object, unknown>();

/** An object or something shorter: told apart first, so that a mistake within the object is told as such. */
export function either<const O extends v.GenericSchema, const S extends v.GenericSchema>(
  ofObject: O,
  short: S,
) {
  const schema = v.lazy<O | S>(input => (isPlainObject(input) ? ofObject : short));
  ofObjects.set(schema, ofObject);
  return schema;
}

/** What `either` takes for an object; undefined of any other schema. */
export function ofObject(schema: object): unknown {
  return ofObjects.get(schema);
}

export function isPlainObject(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  // By its own look, not by identity: a config that was loaded in another realm has another Object.
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

export function protocolOf(value: string): string {
  return URL.canParse(value) ? new URL(value).protocol : '';
}
