-- pause_queue: stops or resumes claims from a queue; changes no run.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] queue   ARGV[3] paused or resumed
-- Reply: 1 when something changed else 0
-- Safe to repeat.
local changed = call(ARGV[3] == 'paused' and 'SADD' or 'SREM', P .. 'paused', ARGV[2])
if changed == 1 then announce('queue', ARGV[2], ARGV[3]) end
flush()
return changed
