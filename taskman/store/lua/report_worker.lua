-- report_worker: keeps what a worker says of itself, and when; changes no run.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] worker   ARGV[3] what it says (JSON, opaque)
-- Reply: now, epoch ms
-- Safe to repeat. Passes when Redis is full, or every worker would seem to be gone then.
settling()
call('HSET', P .. 'workers', ARGV[2], text(now) .. ' ' .. ARGV[3])
return now
