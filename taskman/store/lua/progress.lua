-- progress: keeps how far attempts say they have come; changes no state.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] worker   then 3 for each run: id, attempt, progress (JSON, opaque)
-- Reply: for each run 1 kept, 0 when the attempt is not the current one of this worker
-- Safe to repeat: the newest wins. Who looks at the run hears of it on a channel of its own, nobody else does.
local worker, reply = ARGV[2], {}
for i = 3, #ARGV, 3 do
  local run = P .. 'run:' .. ARGV[i]
  local f = call('HMGET', run, 'state', 'attempt', 'worker')
  local held = f[2] == ARGV[i + 1] and f[3] == worker and (f[1] == 'running' or f[1] == 'cancelling')
  if held then
    call('HSET', run, 'progress', ARGV[i + 1] .. ' ' .. text(now) .. ' ' .. ARGV[i + 2])
    call('PUBLISH', run .. ':progress', ARGV[i + 1])
  end
  table.insert(reply, held and 1 or 0)
end
return reply
