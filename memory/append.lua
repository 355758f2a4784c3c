-- Compare and append, in one step that no other client can interrupt.
--
-- KEYS[1]  stream of the thread's records; the entry of index n has the id (n + 1)-0
-- KEYS[2]  hash from turn tag to index; `erasure` where erase.lua was here a while ago
-- ARGV     length and head that the writer saw, turn tag, sealed record, head after it
--
-- Returns {"again", index} where the turn is already there, {"erased", "0"} where the thread was
-- erased, {"moved", length} where another writer was first, {"appended", index} otherwise. Only the
-- last writes.

local known = redis.call('HMGET', KEYS[2], ARGV[3], 'erasure')
if known[1] then
  return {'again', known[1]}
end
if known[2] then
  return {'erased', '0'}
end

local length, head = '0', ARGV[2]
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if newest then
  length = string.match(newest[1], '^%d+')
  head = newest[2][4]
end
if length ~= ARGV[1] or head ~= ARGV[2] then
  return {'moved', length}
end

-- Refused by the server where a newer entry was ever there: a stream's ids only grow.
redis.call('XADD', KEYS[1], string.format('%.0f', ARGV[1] + 1) .. '-0', 'r', ARGV[4], 'h', ARGV[5])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[1])
return {'appended', ARGV[1]}
