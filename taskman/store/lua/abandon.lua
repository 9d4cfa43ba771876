-- abandon: scheduled, queued -> failed (lost), for children of placed runs whose worker is gone for good.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   then candidates: ids of children
-- Reply: number ended
-- Safe to repeat and to run on many servers at once: each candidate is checked again here.
local count = 0
settling()
for i = 2, #ARGV do
  local run = load(ARGV[i])
  if run and WAITING[run.state] and option(run, 'pa') then
    call('HSET', P .. 'run:' .. run.id, 'error', 'lost: the worker that it was placed on went away')
    end_waiting(run, 'failed', 'lost', 'watchdog')
    count = count + 1
  end
end
flush()
return count
