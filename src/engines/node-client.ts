/** Asks an engine over HTTPS with a deployment's own certificates: etcd, Patroni. */
import { readFileSync } from 'node:fs';
import { request } from 'node:https';
import type { CertificateFiles } from './node-certificate.ts';

export interface NodeRequest {
  method?: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  body?: unknown;
  /** `user:password` */
  auth?: string;
  signal?: AbortSignal;
}

export interface NodeAnswer {
  status: number;
  /** Parsed when it is JSON, else the text. */
  body: unknown;
}

/** @throws what the connection throws; an answer of whatever status is an answer */
export async function askNode(
  url: string,
  { ca, certificate, key }: CertificateFiles,
  { method = 'GET', body, auth, signal }: NodeRequest = {},
): Promise<NodeAnswer> {
  const { promise, resolve, reject } = Promise.withResolvers<NodeAnswer>();
  const text = body === undefined ? undefined : JSON.stringify(body);
  const req = request(
    url,
    {
      method,
      ca: readFileSync(ca),
      cert: readFileSync(certificate),
      key: readFileSync(key),
      agent: false,
      ...(auth ? { auth } : {}),
      ...(signal ? { signal } : {}),
      ...(text === undefined
        ? {}
        : {
            headers: {
              'content-type': 'application/json',
              'content-length': Buffer.byteLength(text),
            },
          }),
    },
    response => {
      let received = '';
      response.setEncoding('utf8');
      response.on('data', chunk => {
        received += chunk;
      });
      response.once('error', reject);
      response.once('end', () =>
        resolve({ status: response.statusCode ?? 0, body: parsed(received) }),
      );
    },
  );
  req.once('error', reject);
  req.end(text);
  return promise;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
