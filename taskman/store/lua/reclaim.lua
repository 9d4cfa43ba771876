-- reclaim: a run whose lease has run out is suspect first; after its grace running -> queued (reason lost), or -> failed
-- past its budget; cancelling -> cancelled. What a worker known to be gone held is lost at once.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] worker whose runs to take back at once, or '' for whatever has expired
-- then candidate run ids
-- Reply: {number that became suspect, number lost}
-- Safe to repeat and to run on many servers at once: each candidate is checked again here.
local DEFAULT_GRACE_MS = 20000
local worker, suspects, lost = ARGV[2], 0, 0

local function suspect(run)
  call('HSET', P .. 'run:' .. run.id, 'suspect', 1)
  call('ZADD', P .. 'leases', text(now + tonumber(option(run, 'gr') or DEFAULT_GRACE_MS)), run.id)
  tell(run, 'suspect')
  suspects = suspects + 1
end

settling()
for i = 3, #ARGV do
  local run, lease_end = load(ARGV[i]), call('ZSCORE', P .. 'leases', ARGV[i])
  local expired = worker == '' and lease_end and tonumber(lease_end) <= now
  if not run or (run.state ~= 'running' and run.state ~= 'cancelling') then
    if expired then call('ZREM', P .. 'leases', ARGV[i]) end
  elseif worker ~= '' and run.worker == worker then
    lose(run, 'worker:' .. worker)
    lost = lost + 1
  elseif expired and not run.suspect then
    suspect(run)
  elseif expired then
    lose(run, 'watchdog')
    lost = lost + 1
  end
end
flush()
return {suspects, lost}
