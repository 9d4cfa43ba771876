-- enlist_worker: a worker connects under its id, which is its owner's for as long as it is there; changes no run.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] worker   ARGV[3] owner, without blanks   ARGV[4] session   ARGV[5] ms without a
--   sign of life after which the id is free   ARGV[6] what it says of itself (JSON, opaque)
-- Reply: {1, what it said of itself before or ''}, or {0, when it was heard of last, epoch ms} when another has the id
-- Safe to repeat. Passes when Redis is full, or no worker could come back then.
local worker, owner = ARGV[2], ARGV[3]
local said, owned = call('HGET', P .. 'workers', worker), call('HGET', P .. 'owners', worker)
local seen = said and tonumber(string.match(said, '^%d+'))
if owned and seen and owned ~= owner and now - seen < tonumber(ARGV[5]) then return {0, text(seen)} end
settling()
call('HSET', P .. 'workers', worker, text(now) .. ' ' .. ARGV[6])
call('HSET', P .. 'owners', worker, owner)
announce('worker', worker, 'connected', ARGV[4])
flush()
return {1, said and string.match(said, '^%d+ (.*)$') or ''}
