/**
 * Renders HAProxy's configuration, and the same servers as commands of its Runtime API. Pure.
 *
 * Servers join and leave a running HAProxy over its socket, without a reload; the file is written anew
 * each time, so that a restart changes nothing. One function makes a server's words for both, since the
 * two may not differ; the socket knows no defaults, so every server carries all of its words.
 */

import type { Account } from '../machines/unit.ts';

export interface BalancedServer {
  name: string;
  host: string;
  port: number;
  /** Relative share of the requests, 1 to 256. */
  weight: number;
}

export interface BalancerSettings {
  /** Of these settings: HAProxy tells it when it is asked, so what runs can be told from what should. */
  revision: string;
  /** Path of the Runtime API's socket. */
  runtimeSocket: string;
  /** The account to become after start; undefined to stay what it is. */
  account: Account | undefined;
  algorithm: 'roundrobin' | 'leastconn' | 'random';
  /** Bind a client to a server by a cookie, whose values are derived with this key. */
  stickyKey: string | undefined;
  tls: { certificateFile: string; redirectToPort: number | undefined } | undefined;
  rateLimit: { requests: number; windowSeconds: number } | undefined;
  maxBodyBytes: number;
  /** Requests that one server gets at a time; more wait at the balancer. */
  maxConcurrency: number;
  /** Path of the servers' health check. */
  ready: string;
  timeouts: {
    /** Of a client between two packets. */
    clientMs: number;
    /** Of a server for its answer. */
    responseMs: number;
    /** Of a request in the queue when all servers are busy. */
    queueMs: number;
    /** Of a connection without requests, WebSockets among them. */
    tunnelMs: number;
    /** Of requests in flight when the balancer stops. */
    drainMs: number;
  };
  servers: BalancedServer[];
}

export const BACKEND = 'web';

/**
 * A dead server is noticed at once (`observe layer4`: a refused connection), one that stands still after two
 * checks without an answer. One that is merely very busy must not be taken for that: its load would fall on
 * the others, which would then be the next, and when the last is gone every request fails with 503.
 */
const CHECK_TIMEOUT_MS = 3_000;
const CHECKS = 'check inter 1s fastinter 250ms downinter 500ms rise 1 fall 2';
/**
 * Connections to a server that are not needed are closed soon: Node closes them after 5 s unless it is told
 * otherwise, and a POST that goes out at that moment has no answer and may not be sent again.
 */
const POOL = 'pool-purge-delay 1s';
const PASSIVE_CHECKS = 'observe layer4 error-limit 1 on-error mark-down';

/** HTTP methods that may be sent twice, since the second changes nothing more. (RFC 9110, 9.2.2) */
const IDEMPOTENT = 'GET HEAD OPTIONS PUT DELETE TRACE';

export function renderHaproxyConfig(settings: BalancerSettings): string {
  const { timeouts, tls, rateLimit, account } = settings;
  const lines = [
    '# Written by Banyan; the servers below are those that run. Change banyan.config.ts instead.',
    'global',
    '  log stdout format raw local0 info',
    `  description ${settings.revision}`,
    `  stats socket ${quote(settings.runtimeSocket)} mode 600 level admin`,
    `  hard-stop-after ${timeouts.drainMs}ms`,
    ...(account ? [`  uid ${account.uid}`, `  gid ${account.gid}`] : []),
    ...(tls
      ? ['  ssl-default-bind-options ssl-min-ver TLSv1.2', '  tune.ssl.default-dh-param 2048']
      : []),
    '',
    'defaults',
    '  mode http',
    '  log global',
    '  option httplog',
    '  # Only what went wrong: the servers log the rest.',
    '  option dontlog-normal',
    '  option redispatch 1',
    '  retries 3',
    '  timeout connect 2s',
    `  timeout check ${CHECK_TIMEOUT_MS}ms`,
    `  timeout client ${timeouts.clientMs}ms`,
    `  timeout server ${timeouts.responseMs}ms`,
    `  timeout queue ${timeouts.queueMs}ms`,
    `  timeout tunnel ${timeouts.tunnelMs}ms`,
    '  timeout http-request 15s',
    // As long as Node keeps one open itself. It bounds how long a balancer that stops waits for idle clients.
    '  timeout http-keep-alive 5s',
    '',
    'frontend public',
    '  # While it stops, a connection is closed with its next answer, not under a request on its way.',
    '  option idle-close-on-response',
    // The first descriptor is the plain socket, the second the one for TLS.
    '  bind fd@3',
    ...(tls ? [`  bind fd@4 ssl crt ${quote(tls.certificateFile)} alpn h2,http/1.1`] : []),
    '  unique-id-format %[uuid()]',
    '  http-request set-header X-Request-Id %[unique-id]',
    '  http-after-response set-header X-Request-Id %[unique-id]',
    '  http-request set-header X-Forwarded-Proto http if !{ ssl_fc }',
    '  http-request set-header X-Forwarded-Proto https if { ssl_fc }',
    '  # What a client says of itself is worth nothing: the balancer says who it is.',
    '  http-request del-header X-Forwarded-For',
    '  http-request del-header X-Forwarded-Host',
    '  http-request del-header X-Forwarded-Port',
    '  http-request del-header X-Real-IP',
    '  http-request del-header Forwarded',
    '  option forwardfor',
    ...(tls?.redirectToPort === undefined
      ? []
      : [
          `  http-request redirect code 308 location https://%[req.hdr(host),field(1,:)]:${tls.redirectToPort}%[capture.req.uri] if !{ ssl_fc }`,
        ]),
    ...(rateLimit
      ? [
          `  stick-table type ipv6 size 200k expire ${rateLimit.windowSeconds}s store http_req_rate(${rateLimit.windowSeconds}s)`,
          '  http-request track-sc0 src',
          `  http-request deny deny_status 429 hdr Retry-After ${rateLimit.windowSeconds} if { sc_http_req_rate(0) gt ${rateLimit.requests} }`,
        ]
      : []),
    `  http-request deny deny_status 413 if { req.hdr_val(content-length) gt ${settings.maxBodyBytes} }`,
    `  default_backend ${BACKEND}`,
    '',
    `backend ${BACKEND}`,
    `  balance ${settings.algorithm === 'random' ? 'random(2)' : settings.algorithm}`,
    '  option httpchk',
    `  http-check send meth GET uri ${quote(settings.ready)} ver HTTP/1.1 hdr Host banyan hdr User-Agent banyan`,
    '  http-check expect status 200-499',
    '  # What may be sent twice is sent to another server when one fails; the rest only if it was never sent.',
    '  retry-on conn-failure empty-response response-timeout',
    `  http-request disable-l7-retry unless { method ${IDEMPOTENT} }`,
    ...(settings.stickyKey
      ? [
          `  cookie BANYAN_SERVER insert indirect nocache httponly${tls?.redirectToPort === undefined ? '' : ' secure'} dynamic attr SameSite=Lax`,
          `  dynamic-cookie-key ${quote(settings.stickyKey)}`,
        ]
      : []),
    ...settings.servers.map(server => `  server ${server.name} ${serverWords(server, settings)}`),
    '',
  ];
  return lines.join('\n');
}

/** A server's address and settings, as both the file and `add server` take them. */
export function serverWords(
  { host, port, weight }: BalancedServer,
  { maxConcurrency }: Pick<BalancerSettings, 'maxConcurrency'>,
): string {
  const address = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
  return `${address} ${CHECKS} ${PASSIVE_CHECKS} ${POOL} weight ${weight} maxconn ${maxConcurrency}`;
}

/** HAProxy splits words at blanks; within double quotes a backslash, a quote and a dollar are special. */
function quote(text: string): string {
  return /^[\w./:@-]+$/.test(text) ? text : `"${text.replace(/[\\"$]/g, '\\$&')}"`;
}
