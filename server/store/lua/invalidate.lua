-- Remove snapshots older than what a batch of postings committed, and store its answers, so that retries need not reach
-- the database. This runs before the batch is answered.
--
-- A snapshot of another run of the database is removed too: its version belongs to another history. A lease stays, and
-- from then on accepts no older snapshot.
--
-- KEYS: account snapshots, then replays. ARGV: number of snapshots; the run; the version of each; life of a replay in
-- seconds; the replays.
local count = tonumber(ARGV[1])
for i = 1, count do
  local value = redis.call('GET', KEYS[i])
  if value then
    local seen = tonumber(ARGV[i + 2])
    local token, least = string.match(value, '^L(.*):(%d+)$')
    local version, run = string.match(value, '^S(%d+)%.(%x+) ')
    if token then
      if tonumber(least) < seen then
        redis.call('SET', KEYS[i], 'L' .. token .. ':' .. ARGV[i + 2], 'KEEPTTL')
      end
    elseif run ~= ARGV[2] or tonumber(version) < seen then
      -- An older snapshot, one of another run, or a value that is not ours.
      redis.call('DEL', KEYS[i])
    end
  end
end
local life = ARGV[count + 3]
for i = count + 1, #KEYS do
  redis.call('SET', KEYS[i], ARGV[i + 3], 'EX', life)
end
return #KEYS
