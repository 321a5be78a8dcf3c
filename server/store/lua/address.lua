-- Take tokens of one bucket of a family whose buckets are counted by network address.
--
-- KEYS: the buckets of the family, by address; an index of them by the microsecond in which each is full again.
-- ARGV: the address; refill, price and capacity, as in gate.lua; the cost.
--
-- These keys have no lifetime, since a server that is short of memory may evict keys that have one. A full bucket and a
-- missing one are the same, so each call removes up to two buckets that are full again: there are never many more
-- buckets than are in use.
--
-- Reply: wait in microseconds (0 admitted, -1 never admitted), whole tokens left.
local address = ARGV[1]
local refill, price, capacity = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local cost = tonumber(ARGV[5])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

-- First, since deleting is allowed when memory is short, and makes room for the writes below.
for _, full in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 2)) do
  redis.call('ZREM', KEYS[2], full)
  redis.call('HDEL', KEYS[1], full)
end

local units = capacity
local changed = false
local state = redis.call('HGET', KEYS[1], address)
local held, since, old_price
if state then held, since, old_price = string.match(state, '^(%d+):(%d+):(%d+)$') end
if held then
  held = tonumber(held)
  old_price = tonumber(old_price)
  -- The limit has changed, and with it the size of a unit: only whole tokens are kept.
  if old_price ~= price then held = math.floor(held / old_price) * price end
  local elapsed = now - tonumber(since)
  -- A clock that stepped back refills nothing. Its new time is stored even if no request is admitted.
  if elapsed < 0 then
    elapsed = 0
    changed = true
  end
  if held > capacity then held = capacity end
  if elapsed < (capacity - held) / refill then units = held + elapsed * refill end
end

local wait = 0
local need = cost * price
if need > capacity then
  wait = -1
elseif need > units then
  wait = math.ceil((need - units) / refill)
elseif cost > 0 then
  units = units - need
  changed = true
end
if changed then
  redis.call('HSET', KEYS[1], address, string.format('%.0f:%.0f:%.0f', units, now, price))
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + math.ceil((capacity - units) / refill)), address)
end
return {wait, math.floor(units / price)}
