/**
 * `node:http`, got in the way that costs a command 20 ms and not 100: an `import` of a built-in module evaluates each of its exports, and
 * one of this module's is `WebSocket`, with all of undici, HTTP/2 and TLS behind it.
 */
export const { createServer, get, request } = process.getBuiltinModule('node:http');
