-- Erase a thread, in one step that no other client can interrupt.
--
-- KEYS[1]  stream of the thread's records
-- KEYS[2]  hash from turn tag to index
--
-- Returns {records, head}: how many records there were and the head that stood beside the newest,
-- empty where there was none. What was put in their place under these names goes as well.

local length = redis.pcall('XLEN', KEYS[1])
if type(length) ~= 'number' then
  length = 0
end
local head = ''
if length > 0 then
  local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  head = newest[2][4] or ''
end
redis.call('UNLINK', KEYS[1], KEYS[2])
return {length, head}
