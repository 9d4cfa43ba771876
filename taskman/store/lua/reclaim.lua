-- reclaim: running -> queued (reason lost), or -> failed past the budget; cancelling -> cancelled.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] worker whose runs to take back at once, or '' for whatever has expired
-- ARGV[3] how often a run may be lost   then candidate run ids
-- Reply: number reclaimed
-- Safe to repeat and to run on many servers at once: each candidate is checked again here.
local worker, max_lost, count = ARGV[2], tonumber(ARGV[3]), 0
settling()
for i = 4, #ARGV do
  local run = load(ARGV[i])
  local lease_end = call('ZSCORE', P .. 'leases', ARGV[i])
  local mine = run and worker ~= '' and run.worker == worker
  local expired = lease_end and worker == '' and tonumber(lease_end) <= now
  if not run or (run.state ~= 'running' and run.state ~= 'cancelling') then
    if expired then call('ZREM', P .. 'leases', ARGV[i]) end
  elseif mine or expired then
    lose(run, max_lost, worker ~= '' and 'worker:' .. worker or 'watchdog')
    count = count + 1
  end
end
flush()
return count
