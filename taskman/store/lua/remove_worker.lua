-- remove_worker: forgets a worker that has stopped in order, its drain included; changes no run.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] worker
-- Reply: 1 when it was known else 0
-- Safe to repeat.
local known = call('HDEL', P .. 'workers', ARGV[2])
call('HDEL', P .. 'owners', ARGV[2])
call('SREM', P .. 'draining', ARGV[2])
if known == 1 then announce('worker', ARGV[2], 'stopped', '-') end
flush()
return known
