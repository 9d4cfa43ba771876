-- expire: ends runs past a deadline. `start`: whatever waits -> failed (expired). `whole`: whatever waits -> failed
-- (deadline), running -> cancelling, and failed (deadline) when its worker has ended it; so do a placed run's children.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   then candidates as the deadlines set holds them: 'start <id>' or 'whole <id>'
-- Reply: number ended or told to end
-- Safe to repeat and to run on many servers at once: each candidate is checked again here.
local count = 0

local function end_it(run, kind)
  if WAITING[run.state] then
    end_waiting(run, 'failed', kind == 'start' and 'expired' or 'deadline', 'watchdog')
    count = count + 1
  elseif run.state == 'running' and kind == 'whole' then
    change(run, 'cancelling', 'deadline', 'watchdog', 'ending', 'deadline')
    count = count + 1
    each_child(run, end_it, kind)
  end
end

settling()
for i = 2, #ARGV do
  local due = call('ZSCORE', P .. 'deadlines', ARGV[i])
  if due and tonumber(due) <= now then
    call('ZREM', P .. 'deadlines', ARGV[i])
    local kind, id = string.match(ARGV[i], '^(%a+) (%S+)$')
    local run = load(id)
    if run then end_it(run, kind) end
  end
end
flush()
return count
