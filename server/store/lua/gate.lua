-- One round trip for all waiting requests, whatever their API keys: take tokens, then look up what each request needs.
--
-- KEYS: the buckets, each once, then one key for each request that looks something up.
-- ARGV: prefix of lease tokens; life of a lease in milliseconds; one array of numbers in MessagePack, since each
-- argument costs more than a number. The numbers: how many buckets; refill, price and capacity of each; then the requests
-- in the order in which they came. Neighbours with one API key share a group: number of its buckets, their places among
-- KEYS, number of requests, and for each request its cost and what it looks up: 0 nothing, 1 a snapshot, 2 a replay.
--
-- A bucket counts units: `refill` of them come in each microsecond, a token costs `price` of them and `capacity` of
-- them fit in. All are whole numbers below 2^53, so no rate drifts. State: "units:microseconds of the server:price".
--
-- Reply, flat, three a request: wait in microseconds (0 admitted, -1 never admitted), whole tokens left in the
-- narrowest bucket, and what was found: nil, a value, or for snapshots "G<token>" (nothing there, the lease is now
-- the caller's) or "L..." (another caller's lease); for a request that is not admitted, the number of the bucket that
-- it waits for longest.
local token, lease = ARGV[1], ARGV[2]
local numbers = cmsgpack.unpack(ARGV[3])
local bucket_count = numbers[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
-- MGET, since it returns nothing for a value that is no string: one foreign value must not fail all requests.
local values = redis.call('MGET', unpack(KEYS))
local refill, price, capacity, units, changed = {}, {}, {}, {}, {}
for b = 1, bucket_count do
  refill[b] = numbers[3 * b - 1]
  price[b] = numbers[3 * b]
  capacity[b] = numbers[3 * b + 1]
  units[b] = capacity[b]
  local held, since, old_price
  if values[b] then held, since, old_price = string.match(values[b], '^(%d+):(%d+):(%d+)$') end
  if held then
    held = tonumber(held)
    old_price = tonumber(old_price)
    -- The limit has changed, and with it the size of a unit: only whole tokens are kept.
    if old_price ~= price[b] then held = math.floor(held / old_price) * price[b] end
    local elapsed = now - tonumber(since)
    -- A clock that stepped back refills nothing. Its new time is stored even if no request is admitted.
    if elapsed < 0 then
      elapsed = 0
      changed[b] = true
    end
    if held > capacity[b] then held = capacity[b] end
    if elapsed < (capacity[b] - held) / refill[b] then units[b] = held + elapsed * refill[b] end
  end
end

local argument = 3 * bucket_count + 2
local key = bucket_count
local reply = {}
local number = 0
-- Leases given here, by the key of the snapshot.
local leases = {}
local places = {}
while argument <= #numbers do
  local count = numbers[argument]
  for n = 1, count do places[n] = numbers[argument + n] end
  argument = argument + count + 1
  local requests = numbers[argument]
  argument = argument + 1
  for _ = 1, requests do
    number = number + 1
    local cost = numbers[argument]
    local kind = numbers[argument + 1]
    argument = argument + 2
    local wait = 0
    local waits_for = 0
    for n = 1, count do
      local b = places[n]
      local need = cost * price[b]
      if need > capacity[b] then
        wait = -1
        waits_for = n
        break
      end
      if need > units[b] then
        local longer = math.ceil((need - units[b]) / refill[b])
        if longer > wait then
          wait = longer
          waits_for = n
        end
      end
    end
    local found = false
    if kind ~= 0 then key = key + 1 end
    if wait == 0 then
      if kind ~= 0 then
        found = values[key]
        if not found and kind == 1 then
          found = leases[KEYS[key]]
          if not found then
            leases[KEYS[key]] = 'L' .. token .. number .. ':0'
            redis.call('SET', KEYS[key], leases[KEYS[key]], 'PX', lease)
            found = 'G' .. token .. number
          end
        end
      end
    else
      found = waits_for
    end
    local left = nil
    for n = 1, count do
      local b = places[n]
      if wait == 0 and cost > 0 then
        units[b] = units[b] - cost * price[b]
        changed[b] = true
      end
      local whole = math.floor(units[b] / price[b])
      if left == nil or whole < left then left = whole end
    end
    reply[3 * number - 2] = wait
    reply[3 * number - 1] = left or 0
    reply[3 * number] = found
  end
end

local states = {}
for b = 1, bucket_count do
  if changed[b] then
    states[#states + 1] = KEYS[b]
    states[#states + 1] = string.format('%.0f:%.0f:%.0f', units[b], now, price[b])
  end
end
-- Without a lifetime: a server short of memory may evict keys that have one, and a missing bucket counts as full.
if #states > 0 then redis.call('MSET', unpack(states)) end
return reply
