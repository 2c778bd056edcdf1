/**
 * The OpenAPI document as a judge: is this answer what it says?
 *
 * Stricter than JSON Schema alone: fields that the document does not have are wrong too, but for the
 * fields of an error, which it leaves open.
 */
import { readFileSync } from 'node:fs';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { parse } from 'yaml';

type Json = Record<string, unknown>;

interface Operation {
  /** As in the document: `/articles/{slug}`. */
  path: string;
  method: string;
  pattern: RegExp;
  /** For each status the name of its response among the components. */
  responses: Map<number, string>;
}

const document = parse(
  readFileSync(new URL('../../openapi.yml', import.meta.url), 'utf8'),
) as Json & { paths: Record<string, Record<string, { responses: Record<string, Json> }>> };

const ajv = new Ajv2020({ strict: false, allErrors: true });
ajv.addFormat('date-time', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
ajv.addFormat('password', true);
ajv.addSchema(closed(document) as Json, 'document');

export const operations: Operation[] = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, { responses }]) => ({
    path,
    method: method.toUpperCase(),
    pattern: new RegExp(`^${path.replaceAll(/\{\w+\}/g, '[^/]+')}$`),
    responses: new Map(
      Object.entries(responses).map(([status, { $ref }]) => [
        Number(status),
        String($ref).split('/').at(-1)!,
      ]),
    ),
  })),
);

/** The operation of a request. Paths without parameters come first: `/articles/feed` is no slug. */
export function operationOf(method: string, pathname: string): Operation | undefined {
  return operations
    .filter(operation => operation.method === method && operation.pattern.test(pathname))
    .sort((a, b) => Number(a.path.includes('{')) - Number(b.path.includes('{')))[0];
}

/** @returns what is wrong; empty when all is well */
export function faultsOf(operation: Operation, status: number, body: unknown): string[] {
  const response = operation.responses.get(status);
  const schema = response ? schemaOf(response) : '#/components/schemas/GenericErrorModel';
  if (schema === undefined) return [];
  const validate = ajv.compile({ $ref: `document${schema}` });
  if (validate(body)) return [];
  return (validate.errors ?? []).map(
    ({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`,
  );
}

/** Undefined for a response whose body the document leaves open. */
function schemaOf(response: string): string | undefined {
  const { content } = (document.components as { responses: Record<string, { content: Json }> })
    .responses[response]!;
  if (!content['application/json']) return undefined;
  return `#/components/responses/${response}/content/application~1json/schema`;
}

function closed(value: unknown, name = ''): unknown {
  if (Array.isArray(value)) return value.map(item => closed(item));
  if (typeof value !== 'object' || value === null) return value;
  const copy = Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [key, closed(inner, key)]),
  );
  const isOpen = name === 'errors';
  return 'properties' in copy && copy.type === 'object' && !isOpen
    ? { ...copy, additionalProperties: false }
    : copy;
}
