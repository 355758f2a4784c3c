-- Compare and append one step of a handle, in one step that no other client can interrupt.
--
-- KEYS[1]  list of the handle's signed steps
-- KEYS[2]  hash from an address (a definition's or a file's digest) to the digests of its pieces
-- KEYS[3]  and on: pieces, which expire unless a step needs them
-- ARGV     the step's number, the signed step, then addresses and their pieces' digests in turn
--
-- Returns {"taken", length} where another step stands there, {"behind", length} where one before it
-- is missing, {"missing", n} where the n-th piece is, {"known", number} where this very step stands
-- there, {"appended", number} otherwise.

local number, length = tonumber(ARGV[1]), redis.call('LLEN', KEYS[1])
if length > number and redis.call('LINDEX', KEYS[1], number) ~= ARGV[2] then
  return {'taken', length}
end
if length < number then
  return {'behind', length}
end
for at = 3, #KEYS do
  if redis.call('EXISTS', KEYS[at]) == 0 then
    return {'missing', at - 3}
  end
end
for at = 3, #KEYS do
  redis.call('PERSIST', KEYS[at])
end
for at = 3, #ARGV, 2 do
  -- What is there stays: anybody can send a signed step again, and other pieces with it.
  redis.call('HSETNX', KEYS[2], ARGV[at], ARGV[at + 1])
end
if length > number then
  return {'known', number}
end
redis.call('RPUSH', KEYS[1], ARGV[2])
return {'appended', number}
