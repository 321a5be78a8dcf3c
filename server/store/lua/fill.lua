-- Store the snapshot that the holder of a lease has read, unless the lease was invalidated by a newer version.
--
-- KEYS[1]: the snapshot. ARGV: token of the lease, version read, snapshot, its life and that of a lease in
-- milliseconds, the run of the database it was read in.
-- The lifetime begins when the lease was taken, since what was read may be that old.
-- Replies 1 if it was stored, else 0. If the lease is good but the snapshot's life is over by now, the lease is
-- removed. Without a good lease, this does what invalidate.lua does with the reader's version.
local value = redis.call('GET', KEYS[1])
if not value then return 0 end
local seen = tonumber(ARGV[2])
local token, least = string.match(value, '^L(.*):(%d+)$')
local version, run = string.match(value, '^S(%d+)%.(%x+) ')
if token then
  if token == ARGV[1] and tonumber(least) <= seen then
    local age = math.max(ARGV[5] - redis.call('PTTL', KEYS[1]), 0)
    if ARGV[4] - age < 1 then
      redis.call('DEL', KEYS[1])
      return 0
    end
    redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4] - age)
    return 1
  end
  if tonumber(least) < seen then
    redis.call('SET', KEYS[1], 'L' .. token .. ':' .. ARGV[2], 'KEEPTTL')
  end
elseif run ~= ARGV[6] or tonumber(version) < seen then
  -- An older snapshot, one of another run, or a value that is not ours.
  redis.call('DEL', KEYS[1])
end
return 0
