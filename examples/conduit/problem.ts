/**
 * What can be wrong with a request, as the API words it: `{"errors": {field: [messages]}}`.
 *
 * The document's schema asks for `errors.body`, a list of messages. It is always there: whole sentences
 * of all the fields, unless the field itself is called `body`.
 */
export type FieldErrors = Record<string, string[]>;

export class Problem extends Error {
  readonly status: 401 | 403 | 404 | 413 | 422 | 503;
  readonly errors: FieldErrors;

  constructor(status: Problem['status'], errors: FieldErrors) {
    super(sentences(errors).join('; '));
    this.name = 'Problem';
    this.status = status;
    this.errors = errors;
  }

  toJSON(): { errors: FieldErrors } {
    return { errors: { ...this.errors, body: this.errors.body ?? sentences(this.errors) } };
  }
}

export const invalid = (errors: FieldErrors) => new Problem(422, errors);
export const unauthorized = (errors: FieldErrors) => new Problem(401, errors);
export const forbidden = (thing: string) => new Problem(403, { [thing]: ['forbidden'] });
export const notFound = (thing: string) => new Problem(404, { [thing]: ['not found'] });

/** `{title: ["can't be blank"]}` → `["title can't be blank"]` */
export function sentences(errors: FieldErrors): string[] {
  return Object.entries(errors).flatMap(([field, messages]) =>
    messages.map(message => `${field} ${message}`),
  );
}
