-- Store the snapshot that a lease's holder read, unless something newer has been seen meanwhile.
--
-- KEYS[1]: the snapshot. ARGV: token of the lease, version read, snapshot, its life and that of a lease in
-- milliseconds, the run of the database it was read in.
-- The life counts from when the lease was taken, since what was read may be that old.
-- Replies 1 when stored. Otherwise the reader's version is noted as seen, as any other reader's would be.
local value = redis.call('GET', KEYS[1])
if not value then return 0 end
local seen = tonumber(ARGV[2])
local token, least = string.match(value, '^L(.*):(%d+)$')
local version, run = string.match(value, '^S(%d+)%.(%x+) ')
if token then
  if token == ARGV[1] and tonumber(least) <= seen then
    local age = math.max(ARGV[5] - redis.call('PTTL', KEYS[1]), 0)
    redis.call('SET', KEYS[1], ARGV[3], 'PX', math.max(ARGV[4] - age, 1))
    return 1
  end
  if tonumber(least) < seen then
    redis.call('SET', KEYS[1], 'L' .. token .. ':' .. ARGV[2], 'KEEPTTL')
  end
elseif run ~= ARGV[6] or tonumber(version) < seen then
  -- Older, of another run, or nothing of ours.
  redis.call('DEL', KEYS[1])
end
return 0
