-- Look up one snapshot, and take the lease on it when there is none: the last part of gate.lua, for clusters, where
-- a bucket and a snapshot live on different servers.
--
-- KEYS[1]: the snapshot. ARGV: token of the lease, life of a lease in milliseconds.
local found = redis.call('GET', KEYS[1])
if found then return found end
redis.call('SET', KEYS[1], 'L' .. ARGV[1] .. ':0', 'PX', ARGV[2])
return 'G' .. ARGV[1]
