/**
 * Decides how a request for a file is answered: status, headers and which bytes. Pure.
 *
 * (RFC 9110: section 13 for conditional requests, 14 for ranges.)
 */

import fresh from 'fresh';
import mime from 'mime-types';
import parseRange from 'range-parser';
import type { AssetFile } from './file-index.ts';

export interface AssetRequest {
  method: string;
  headers: {
    ifNoneMatch: string | undefined;
    ifModifiedSince: string | undefined;
    range: string | undefined;
    ifRange: string | undefined;
  };
}

export interface AssetAnswer {
  status: 200 | 206 | 304 | 416;
  headers: Record<string, string>;
  /** The bytes to send, both ends included; undefined for none. */
  bytes: { start: number; end: number } | undefined;
}

export interface Chosen {
  /** The file whose bytes are sent: the plain one or a compressed variant. */
  file: AssetFile;
  /** `Content-Encoding` of it. */
  encoding: string | undefined;
  /** The name that tells the content type: the plain file's. */
  name: string;
  /** Other requests may get another encoding. */
  varies: boolean;
  cacheControl: string;
}

export function answerAsset(request: AssetRequest, chosen: Chosen): AssetAnswer {
  const { file, encoding, name, varies, cacheControl } = chosen;
  // Each encoding has other bytes, so each has an ETag of its own.
  const etag = `"${file.hash.slice(0, 32)}${encoding ? `-${encoding}` : ''}"`;
  const headers: Record<string, string> = {
    'accept-ranges': 'bytes',
    'cache-control': cacheControl,
    etag,
    'last-modified': file.modified.toUTCString(),
    'x-content-type-options': 'nosniff',
    ...(varies ? { vary: 'Accept-Encoding' } : {}),
  };
  const { ifNoneMatch, ifModifiedSince } = request.headers;
  const conditions = {
    ...(ifNoneMatch === undefined ? {} : { 'if-none-match': ifNoneMatch }),
    ...(ifModifiedSince === undefined ? {} : { 'if-modified-since': ifModifiedSince }),
  };
  if (fresh(conditions, { etag, 'last-modified': headers['last-modified'] })) {
    return { status: 304, headers, bytes: undefined };
  }

  headers['content-type'] = mime.contentType(name.slice(name.lastIndexOf('/') + 1)) || BINARY;
  if (encoding) headers['content-encoding'] = encoding;
  const range = rangeOf(request, file, etag);
  if (range === 'unsatisfiable') {
    const { 'content-type': _type, 'content-encoding': _encoding, ...rest } = headers;
    return {
      status: 416,
      headers: { ...rest, 'content-range': `bytes */${file.size}` },
      bytes: undefined,
    };
  }
  const wholeFile = { start: 0, end: file.size - 1 };
  const { start, end } = range ?? wholeFile;
  headers['content-length'] = String(end - start + 1);
  if (range) headers['content-range'] = `bytes ${start}-${end}/${file.size}`;
  const isEmpty = request.method === 'HEAD' || file.size === 0;
  return { status: range ? 206 : 200, headers, bytes: isEmpty ? undefined : { start, end } };
}

const BINARY = 'application/octet-stream';

/** Undefined for the whole file; so too when several ranges are asked for, which a server may ignore. */
function rangeOf(
  { method, headers }: AssetRequest,
  file: AssetFile,
  etag: string,
): { start: number; end: number } | 'unsatisfiable' | undefined {
  if (headers.range === undefined || method !== 'GET' || file.size === 0) return undefined;
  if (headers.ifRange !== undefined && !isSame(headers.ifRange, file, etag)) return undefined;
  // "The last 500 bytes" of a shorter file are all of it; range-parser calls that unsatisfiable.
  const last = /^bytes=-(\d+)$/.exec(headers.range)?.[1];
  if (Number(last) >= file.size) return { start: 0, end: file.size - 1 };
  const ranges = parseRange(file.size, headers.range, { combine: true });
  if (ranges === -1) return 'unsatisfiable';
  if (ranges === -2 || ranges.type !== 'bytes' || ranges.length !== 1) return undefined;
  return ranges[0];
}

/** `If-Range` holds an ETag or a date; the range counts only for the same bytes. */
function isSame(ifRange: string, file: AssetFile, etag: string): boolean {
  if (ifRange.includes('"')) return ifRange === etag;
  return Date.parse(ifRange) === Math.floor(file.modified.getTime() / 1_000) * 1_000;
}
