-- Erase a thread, in one step that no other client can interrupt.
--
-- KEYS     list of the thread's records, hash from turn tag to index, sealed state
-- ARGV     tag of this erasure, its request's id, '1' to heed no earlier note; and where the thread
--          is to be erased only if it stands at one place, its length and head
--
-- Returns {"erased", records, head}: how many records there were and the head that stood beside
-- them, empty where there was none; {"noted", tag, request} where it was erased at another request;
-- {"moved", length} where it stands elsewhere. What was put in their place goes as well.
--
-- In the hash's place a note stays: append.lua writes nothing where it is, another device learns of
-- it however late, and the same erasure, whose answer was lost, is told the same again.

local noted = redis.pcall('HMGET', KEYS[2], 'erasure', 'request', 'length', 'head')
if noted[1] == ARGV[1] then
  return {'erased', tonumber(noted[3]) or 0, noted[4] or ''}
end
local length, head = redis.pcall('LLEN', KEYS[1]), ''
if type(length) ~= 'number' then
  length = 0
elseif length > 0 then
  head = noted[4] or ''
elseif noted[1] and ARGV[3] == '' then
  return {'noted', noted[1], noted[2] or ''}
end
if ARGV[4] and (length ~= tonumber(ARGV[4]) or head ~= ARGV[5]) then
  return {'moved', length, ''}
end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
redis.call('HSET', KEYS[2], 'erasure', ARGV[1], 'request', ARGV[2], 'length', length, 'head', head)
return {'erased', length, head}
