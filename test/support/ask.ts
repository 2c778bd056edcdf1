/** One request on a connection of its own, with everything that a test may want to say or know. */
import { type IncomingHttpHeaders, request as plain } from 'node:http';
import { request as encrypted } from 'node:https';

export interface Question {
  method?: string;
  headers?: Record<string, string>;
  /** Sent with its length unless `chunked`. */
  body?: string | Buffer;
  chunked?: boolean;
  /** Send the body only when the server wants it, as curl does with a long one. */
  patient?: boolean;
  /** The address that the request comes from: any of 127.0.0.0/8. */
  from?: string;
  /** The certificate to trust, as PEM. */
  ca?: string;
}

export interface Reply {
  status: number;
  headers: IncomingHttpHeaders;
  text: string;
}

export function ask(url: string, question: Question = {}): Promise<Reply> {
  const {
    method = 'GET',
    headers = {},
    body,
    chunked = false,
    patient = false,
    from,
    ca,
  } = question;
  const { promise, resolve, reject } = Promise.withResolvers<Reply>();
  const send = url.startsWith('https:') ? encrypted : plain;
  const length =
    body === undefined || chunked ? {} : { 'content-length': String(Buffer.byteLength(body)) };
  const req = send(url, {
    method,
    agent: false,
    headers: { ...headers, ...length, ...(patient ? { expect: '100-continue' } : {}) },
    ...(from ? { localAddress: from } : {}),
    ...(ca ? { ca } : {}),
  });
  let answered = false;
  req.once('response', res => {
    answered = true;
    let text = '';
    res.setEncoding('utf8');
    res.on('data', chunk => {
      text += chunk;
    });
    res.once('error', reject);
    res.once('end', () => resolve({ status: res.statusCode ?? 0, headers: res.headers, text }));
  });
  // A refusal comes before the body has been sent; the rest of it then breaks off.
  req.on('error', error => {
    if (!answered) reject(error);
  });
  if (patient) {
    req.flushHeaders();
    req.once('continue', () => req.end(body));
    req.once('response', () => req.end());
    return promise;
  }
  if (chunked && body !== undefined) req.write(body);
  req.end(chunked ? undefined : body);
  return promise;
}
