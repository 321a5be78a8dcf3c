-- One round trip for all requests of one API key that wait: take tokens, then look up what each request needs.
--
-- KEYS: the buckets, then one key for each request that looks something up.
-- ARGV: number of buckets; for each bucket refill, price and capacity; prefix of lease tokens; life of a lease in
-- milliseconds; then for each request its cost and what it looks up: 0 nothing, 1 a snapshot, 2 a replay.
--
-- A bucket counts units: `refill` of them come in each microsecond, a token costs `price` of them and `capacity` of
-- them fit in. All are whole numbers below 2^53, so no rate drifts. State: "units:microseconds of the server:price".
--
-- Reply, flat, three a request: wait in microseconds (0 admitted, -1 it can never be), whole tokens left in the
-- narrowest bucket, and what was found: nil, a value, or for snapshots "G<token>" (nothing there, the lease is now
-- the caller's) or "L..." (somebody else's lease); for a request that is not admitted, the number of the bucket that
-- it waits for longest.
local bucket_count = tonumber(ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local refill, price, capacity, units = {}, {}, {}, {}
local changed = false
for b = 1, bucket_count do
  refill[b] = tonumber(ARGV[3 * b - 1])
  price[b] = tonumber(ARGV[3 * b])
  capacity[b] = tonumber(ARGV[3 * b + 1])
  local state = redis.call('GET', KEYS[b])
  units[b] = capacity[b]
  local held, since, old_price
  if state then held, since, old_price = string.match(state, '^(%d+):(%d+):(%d+)$') end
  if held then
    held = tonumber(held)
    old_price = tonumber(old_price)
    -- The limit has changed, and with it what a unit is: whole tokens are what stays.
    if old_price ~= price[b] then held = math.floor(held / old_price) * price[b] end
    local elapsed = now - tonumber(since)
    -- A clock that stepped back refills nothing, and is believed from now on: also when nobody is admitted.
    if elapsed < 0 then
      elapsed = 0
      changed = true
    end
    if held > capacity[b] then held = capacity[b] end
    if elapsed < (capacity[b] - held) / refill[b] then units[b] = held + elapsed * refill[b] end
  end
end

local argument = 3 * bucket_count + 2
local token = ARGV[argument]
local lease = ARGV[argument + 1]
argument = argument + 2
local key = bucket_count
local reply = {}
local number = 0
while argument <= #ARGV do
  number = number + 1
  local cost = tonumber(ARGV[argument])
  local kind = ARGV[argument + 1]
  argument = argument + 2
  local wait = 0
  local waits_for = 0
  for b = 1, bucket_count do
    local need = cost * price[b]
    if need > capacity[b] then
      wait = -1
      waits_for = b
      break
    end
    if need > units[b] then
      local longer = math.ceil((need - units[b]) / refill[b])
      if longer > wait then
        wait = longer
        waits_for = b
      end
    end
  end
  local found = false
  if kind ~= '0' then key = key + 1 end
  if wait == 0 then
    changed = changed or cost > 0
    for b = 1, bucket_count do units[b] = units[b] - cost * price[b] end
    if kind ~= '0' then
      found = redis.call('GET', KEYS[key])
      if not found and kind == '1' then
        redis.call('SET', KEYS[key], 'L' .. token .. number .. ':0', 'PX', lease)
        found = 'G' .. token .. number
      end
    end
  else
    found = waits_for
  end
  local left = nil
  for b = 1, bucket_count do
    local whole = math.floor(units[b] / price[b])
    if left == nil or whole < left then left = whole end
  end
  reply[3 * number - 2] = wait
  reply[3 * number - 1] = left or 0
  reply[3 * number] = found
end

if changed then
  for b = 1, bucket_count do
    -- Without a lifetime: a server that is short of memory may evict what has one, and no bucket is a full one.
    redis.call('SET', KEYS[b], string.format('%.0f:%.0f:%.0f', units[b], now, price[b]))
  end
end
return reply
