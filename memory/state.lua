#!lua
-- Keep a sealed state of the whole thread as it stands, in place of an older one.
--
-- KEYS[1]  list of the thread's records
-- KEYS[2]  hash with `head`; `erasure` where the thread was erased
-- KEYS[3]  sealed state: ten digits, how many records it covers, then what is sealed
-- ARGV     length and head that it covers, the state
--
-- Returns 1 where it was kept. Not one of a place that the thread has left: what it holds may have
-- been erased since.

local note = redis.call('HMGET', KEYS[2], 'head', 'erasure')
local length = redis.call('LLEN', KEYS[1])
if note[2] or note[1] ~= ARGV[2] or length ~= tonumber(ARGV[1]) then
  return 0
end
redis.call('SET', KEYS[3], ARGV[3])
return 1
