#!lua
-- Compare and append, and erase what the appended records name, in one step that no other client
-- can interrupt.
--
-- KEYS[1]  list of the thread's records
-- KEYS[2]  hash from turn tag to index, `head`; `erasure` where the thread was erased
-- KEYS[3]  sealed state, which may hold what is erased
-- ARGV     length and head that the writer saw, head after it, number of records, number of stubs;
--          then for each record it and its turn tag or '', for each stub its index and it
--
-- Returns {"again", index} where a turn is already there, {"erased", tag, request} where the thread
-- was erased, {"moved", length} where another writer was first, {"appended", length} otherwise.
-- Only the last writes.

local head, counted, stubs = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
for at = 7, 5 + 2 * counted, 2 do
  local known = ARGV[at] ~= '' and redis.call('HGET', KEYS[2], ARGV[at])
  if known then
    return {'again', known}
  end
end
local note = redis.call('HMGET', KEYS[2], 'head', 'erasure', 'request')
if note[2] then
  return {'erased', note[2], note[3] or ''}
end
local length = redis.call('LLEN', KEYS[1])
if length ~= tonumber(ARGV[1]) or (note[1] or head) ~= head or (length > 0 and not note[1]) then
  return {'moved', tostring(length)}
end

for at = 6, 4 + 2 * counted, 2 do
  redis.call('RPUSH', KEYS[1], ARGV[at])
  if ARGV[at + 1] ~= '' then
    redis.call('HSET', KEYS[2], ARGV[at + 1], length + (at - 6) / 2)
  end
end
redis.call('HSET', KEYS[2], 'head', ARGV[3])
for at = 6 + 2 * counted, 4 + 2 * (counted + stubs), 2 do
  redis.call('LSET', KEYS[1], ARGV[at], ARGV[at + 1])
end
if stubs > 0 then
  redis.call('UNLINK', KEYS[3])
end
return {'appended', tostring(length + counted)}
