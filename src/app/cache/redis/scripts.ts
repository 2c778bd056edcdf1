/**
 * What happens in Redis in one step: the scripts.
 *
 * Holds true here:
 * - Every key of a script is in one bucket, so in one slot, and is named to Redis.
 * - LSNs are texts of 16 hexadecimal digits, which compare as texts. Transaction ids are numbers: below 2^53 a double is exact.
 * - Each answers with a word first. What is not known is never an "OK".
 */
import { createHash } from 'node:crypto';

export interface Script {
  readonly text: string;
  readonly sha1: string;
}

/** Batches that a bucket remembers, so that a fill can be compared with what came after the filler's own last batch. */
export const RECENT_BATCHES = 256;

function script(text: string): Script {
  return { text, sha1: createHash('sha1').update(text).digest('hex') };
}

/**
 * Applies a batch to a bucket.
 * KEYS: marker, recent batches, then the records of the batch's tags.
 * ARGV: cluster, from, upto, the batch as JSON (empty: nothing changed), `anew` or empty, then an LSN for each record.
 * Answers: OK; SKIP (it has been applied); HOLE with the marker's `applied`.
 */
export const APPLY = script(`
local marker, recent = KEYS[1], KEYS[2]
local cluster, from, upto, batch, mode = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local applied = redis.call('HGET', marker, 'a:' .. cluster)
if applied and applied >= upto then return {'SKIP', applied} end
local anew = false
if not applied or applied < from then
  if mode ~= 'anew' then return {'HOLE', applied or ''} end
  redis.call('HSET', marker, 's:' .. cluster, from)
  anew = true
end
for i = 3, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then redis.call('HSET', KEYS[i], cluster, ARGV[i + 3]) end
end
redis.call('HSET', marker, 'a:' .. cluster, upto)
if batch ~= '' then
  local pushed = tonumber(redis.call('HGET', marker, 'n') or '0')
  if redis.call('LLEN', recent) < math.min(pushed, ${RECENT_BATCHES}) then
    -- The list was evicted: what was in it is not known any more, of any cluster.
    local all = redis.call('HGETALL', marker)
    for i = 1, #all, 2 do
      if string.sub(all[i], 1, 2) == 'a:' and all[i] ~= 'a:' .. cluster then
        redis.call('HSET', marker, 's:' .. string.sub(all[i], 3), all[i + 1])
      end
    end
    redis.call('HSET', marker, 's:' .. cluster, from)
    redis.call('HSET', marker, 'n', 0)
  end
  redis.call('LPUSH', recent, batch)
  redis.call('LTRIM', recent, 0, ${RECENT_BATCHES - 1})
  redis.call('HINCRBY', marker, 'n', 1)
end
return {anew and 'ANEW' or 'OK', upto}
`);

/**
 * Stores an entry if nothing that its loader may have missed touched its tags: the fill rule.
 * KEYS: marker, recent batches, entry, lease, then the records of its tags.
 * ARGV: the entry before and after its \`checked to\`, time to live in ms, the lease's token or empty, how many clusters; for each
 * cluster name, checked to, kind (s, r), xmin, xmax, those in progress (of s; else empty), and the LSN after which nothing is
 * seen; then
 * the tags, in the order of the records.
 * Answers: OK with each cluster's \`checked to\`; else why nothing was stored: UNMARKED, FORGOTTEN, OVERTAKEN with the tag.
 */
export const FILL = script(`
local marker, recent, entry, lease = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ttl, token, count = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
if token ~= '' and redis.call('GET', lease) == token then redis.call('DEL', lease) end
local clusters, behind, behindCount = {}, {}, 0
for i = 1, count do
  local at = 6 + (i - 1) * 7
  local c = { name = ARGV[at], checked = ARGV[at + 1], kind = ARGV[at + 2] }
  local known = redis.call('HMGET', marker, 'a:' .. c.name, 's:' .. c.name)
  if not known[1] or not known[2] then return {'UNMARKED', c.name} end
  if c.checked < known[2] then return {'FORGOTTEN', c.name} end
  c.applied = known[1]
  if c.kind == 's' then
    c.xmin, c.xmax, c.running = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), {}
    for xid in string.gmatch(ARGV[at + 5], '%d+') do c.running[tonumber(xid)] = true end
  end
  c.lsn = ARGV[at + 6]
  clusters[i] = c
  if c.applied > c.checked then behind[c.name] = c; behindCount = behindCount + 1 end
end
local firstTag = 6 + count * 7

local function isSeen(c, xid, lsn)
  if lsn > c.lsn then return false end
  if c.kind == 'r' then return true end
  if type(xid) ~= 'number' then return false end
  local full = c.xmax - c.xmax % 4294967296 + xid
  if full - c.xmax > 2147483648 then full = full - 4294967296
  elseif c.xmax - full > 2147483648 then full = full + 4294967296 end
  if full < c.xmin then return true end
  return full < c.xmax and not c.running[full]
end

if behindCount > 0 then
  local tags = {}
  for i = firstTag, #ARGV do tags[ARGV[i]] = true end
  local length = redis.call('LLEN', recent)
  local pushed = tonumber(redis.call('HGET', marker, 'n') or '0')
  if length < math.min(pushed, ${RECENT_BATCHES}) then return {'FORGOTTEN', ''} end
  local at = 0
  while behindCount > 0 and at < length do
    for _, text in ipairs(redis.call('LRANGE', recent, at, at + 7)) do
      local batch = cjson.decode(text)
      local c = behind[batch[1]]
      if c and batch[2] <= c.checked then
        behind[batch[1]] = nil
        behindCount = behindCount - 1
      elseif c then
        for _, change in ipairs(batch[3]) do
          if change[2] > c.checked then
            for j = 3, #change do
              if tags[change[j]] and not isSeen(c, change[1], change[2]) then return {'OVERTAKEN', change[j]} end
            end
          end
        end
      end
      if behindCount == 0 then break end
    end
    at = at + 8
  end
  if behindCount > 0 and length >= ${RECENT_BATCHES} then return {'FORGOTTEN', ''} end
end

local checked, answer = {}, {'OK'}
for i, c in ipairs(clusters) do
  checked[i] = c.applied > c.checked and c.applied or c.checked
  answer[i + 1] = checked[i]
end
for i = 5, #KEYS do
  for _, c in ipairs(clusters) do redis.call('HSETNX', KEYS[i], c.name, c.applied) end
  if redis.call('PTTL', KEYS[i]) < ttl then redis.call('PEXPIRE', KEYS[i], ttl) end
end
redis.call('SET', entry, ARGV[1] .. table.concat(checked) .. ARGV[2], 'PX', ttl)
return answer
`);

/** Bytes of an entry before its \`checked to\`: version, id, how many clusters (entry-format.ts). */
export const CHECKED_AT = 11;

/**
 * Moves \`checked to\` of an entry forward, if it is still the same entry.
 * KEYS: marker, entry, then the records of its tags (none: the caller vouches).
 * ARGV: its id, how many clusters; for each, in the entry's order, its name and the reader's horizon, or, when the caller vouches, how far.
 * Answers: OK with each \`checked to\`; GONE; UNKNOWN with why.
 */
export const VOUCH = script(`
local marker, entry = KEYS[1], KEYS[2]
local id, count = ARGV[1], tonumber(ARGV[2])
local head = redis.call('GETRANGE', entry, 0, ${CHECKED_AT - 1} + 16 * count)
if #head < ${CHECKED_AT} + 16 * count or string.sub(head, 2, 9) ~= id then return {'GONE'} end
local checked, answer = {}, {'OK'}
for i = 1, count do
  local name, asked = ARGV[1 + 2 * i], ARGV[2 + 2 * i]
  local before = string.sub(head, ${CHECKED_AT + 1} + 16 * (i - 1), ${CHECKED_AT} + 16 * i)
  local now = asked
  if #KEYS > 2 then
    local known = redis.call('HMGET', marker, 'a:' .. name, 's:' .. name)
    if not known[1] or not known[2] then return {'UNKNOWN', 'unmarked'} end
    if known[1] < asked then return {'UNKNOWN', 'behind'} end
    if before < known[2] then return {'UNKNOWN', 'forgotten'} end
    for j = 3, #KEYS do
      local last = redis.call('HGET', KEYS[j], name)
      if not last then return {'UNKNOWN', 'no record'} end
      if last > before then return {'UNKNOWN', 'invalidated'} end
    end
    now = known[1]
  end
  checked[i] = now > before and now or before
  answer[i + 1] = checked[i]
end
redis.call('SETRANGE', entry, ${CHECKED_AT}, table.concat(checked))
return answer
`);

/**
 * What happened before is not known: nothing that was vouched for before holds.
 * KEYS: marker, recent batches. ARGV: cluster, upto.
 */
export const FORGET = script(`
local applied = redis.call('HGET', KEYS[1], 'a:' .. ARGV[1])
if not applied or applied < ARGV[2] then redis.call('HSET', KEYS[1], 'a:' .. ARGV[1], ARGV[2]) end
local since = redis.call('HGET', KEYS[1], 's:' .. ARGV[1])
if not since or since < ARGV[2] then redis.call('HSET', KEYS[1], 's:' .. ARGV[1], ARGV[2]) end
return {'OK'}
`);

/** Gives a lease back, if it is still one's own. KEYS: lease. ARGV: token. */
export const RELEASE = script(`
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return {'OK'}
`);
