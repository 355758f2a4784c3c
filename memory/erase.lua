-- Erase a thread, in one step that no other client can interrupt.
--
-- KEYS[1]  stream of the thread's records
-- KEYS[2]  hash from turn tag to index
-- ARGV     tag of this erasure, seconds for which it is remembered
--
-- Returns {records, head}: how many records there were and the head that stood beside the newest,
-- empty where there was none. What was put in their place under these names goes as well.
--
-- In the hash's place a note stays for a while: append.lua writes nothing where it is, and the same
-- erasure, whose answer was lost, is told the same again.

local length, head = 0, ''
local noted = redis.pcall('HMGET', KEYS[2], 'erasure', 'length', 'head')
if noted[1] == ARGV[1] then
  length, head = tonumber(noted[2]) or 0, noted[3] or ''
else
  local found = redis.pcall('XLEN', KEYS[1])
  if type(found) == 'number' and found > 0 then
    length = found
    local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
    head = newest[2][4] or ''
  end
end
redis.call('UNLINK', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[2], 'erasure', ARGV[1], 'length', length, 'head', head)
redis.call('EXPIRE', KEYS[2], ARGV[2])
return {length, head}
