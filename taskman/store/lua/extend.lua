-- extend: renews the leases of the runs that a worker holds; a suspect run is suspect no more.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] lease, ms   ARGV[3] worker   then 2 for each run: id, attempt
-- Reply: for each run 'keep', 'cancel' (keep the lease, but end the attempt) or 'drop' (stop, deliver nothing)
-- Safe to repeat. The end is set from now, never "only later": a clock that jumped back must heal.
local lease_end, worker, reply = text(now + tonumber(ARGV[2])), ARGV[3], {}
settling()
for i = 4, #ARGV, 2 do
  local f = call('HMGET', P .. 'run:' .. ARGV[i], 'state', 'attempt', 'worker', 'suspect')
  local held = f[2] == ARGV[i + 1] and f[3] == worker and (f[1] == 'running' or f[1] == 'cancelling')
  if held then
    call('ZADD', P .. 'leases', 'XX', lease_end, ARGV[i])
    if f[4] then
      call('HDEL', P .. 'run:' .. ARGV[i], 'suspect')
      tell(load(ARGV[i]), 'resumed')
    end
  end
  table.insert(reply, held and (f[1] == 'cancelling' and 'cancel' or 'keep') or 'drop')
end
flush()
return reply
