#!lua flags=no-writes
-- Everything that opening a thread takes, but for the state itself.
--
-- KEYS[1]  list of the thread's records
-- KEYS[2]  hash from turn tag to index, `head`; a note where the thread was erased
-- KEYS[3]  sealed state: ten digits, how many records it covers, then what is sealed
-- ARGV     how many records the reader has covered, or '' for as many as the state; the length that
--          the device has seen, or ''; most records to return; turn tag, or ''
--
-- Returns {length, head, erasure, request, state, start, records from there, index, record}: of the
-- state the ten digits, the last two of the turn with this tag. '' or {} where there is none. The
-- state itself is read beside the script: it is large, and a script would copy it twice.

local note = redis.call('HMGET', KEYS[2], 'head', 'erasure', 'request')
local length = redis.call('LLEN', KEYS[1])
local page = tonumber(ARGV[3])

local state = redis.call('GETRANGE', KEYS[3], 0, 9)
local digits = string.match(state, '^' .. string.rep('%d', 10))
local covered = tonumber(ARGV[1]) or tonumber(digits) or 0

-- A device is mostly a record or two behind; further back is read in pages.
local seen = tonumber(ARGV[2]) or covered
local start = covered
if seen < covered and covered - seen <= page / 2 then
  start = seen
end
-- The newest at least, so that the head is proven and not believed.
start = math.max(0, math.min(start, length - 1))
local records = redis.call('LRANGE', KEYS[1], start, start + page - 1)

local index, record = '', ''
if ARGV[4] ~= '' then
  index = redis.call('HGET', KEYS[2], ARGV[4]) or ''
  if #index <= 10 and (index == '0' or string.match(index, '^[1-9]%d*$')) then
    record = redis.call('LINDEX', KEYS[1], index) or ''
  end
end
return {length, note[1] or '', note[2] or '', note[3] or '', state, start, records, index, record}
