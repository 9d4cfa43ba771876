-- adopt: scheduled, blocked, queued -> running, for the worker that executes it already: after a restart, Redis may have
-- forgotten the claim. Only an attempt beyond the one that Redis knows can have been forgotten.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] lease, ms   ARGV[3] worker   then 2 for each run: id, attempt
-- Reply: number adopted
-- Safe to repeat: what is adopted is running, and is passed over.
local lease_end, worker, count = text(now + tonumber(ARGV[2])), ARGV[3], 0
settling()
for i = 4, #ARGV, 2 do
  local run = load(ARGV[i])
  if run and WAITING[run.state] and tonumber(run.attempt) < tonumber(ARGV[i + 1]) and not option(run, 'pl') then
    leave_waiting(run)
    run.attempt, run.worker = ARGV[i + 1], worker
    for permit in permits(run) do call('SADD', P .. 'permit:' .. permit, run.id) end
    change(run, 'running', 'recovered', 'worker:' .. worker, 'attempt', run.attempt, 'worker', worker)
    call('ZADD', P .. 'leases', lease_end, run.id)
    if run.opt ~= '' then
      call('ZREM', P .. 'deadlines', 'start ' .. run.id)
      forget_unique(run, 'pending')
    end
    count = count + 1
  end
end
flush()
return count
