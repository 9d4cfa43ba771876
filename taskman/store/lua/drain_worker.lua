-- drain_worker: a worker takes nothing new, or does again; what it runs goes on.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] worker   ARGV[3] drain or resume
-- Reply: 1 when something changed else 0
-- Safe to repeat.
local changed = call(ARGV[3] == 'drain' and 'SADD' or 'SREM', P .. 'draining', ARGV[2])
if changed == 1 then announce('worker', ARGV[2], ARGV[3], '-') end
flush()
return changed
