-- expire: ends runs past a deadline. `start`: queued or blocked -> failed (expired). `whole`: whatever waits -> failed
-- (deadline), running -> cancelling, and failed (deadline) when its worker has ended it.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   then candidates as the deadlines set holds them: 'start <id>' or 'whole <id>'
-- Reply: number ended or told to end
-- Safe to repeat and to run on many servers at once: each candidate is checked again here.
local count = 0

local function fail(run, reason)
  call('ZREM', P .. 'delayed', run.id)
  call('ZREM', P .. 'ready:' .. run.sig, run.id)
  for permit in permits(run) do call('ZREM', P .. 'waiting:' .. permit, run.id) end
  change(run, 'failed', reason, 'watchdog')
  for permit in permits(run) do unblock(permit) end
  count = count + 1
end

settling()
for i = 2, #ARGV do
  local due = call('ZSCORE', P .. 'deadlines', ARGV[i])
  if due and tonumber(due) <= now then
    call('ZREM', P .. 'deadlines', ARGV[i])
    local kind, id = string.match(ARGV[i], '^(%a+) (%S+)$')
    local run = load(id)
    local state = run and run.state
    if state == 'queued' or state == 'blocked' or (state == 'scheduled' and kind == 'whole') then
      fail(run, kind == 'start' and 'expired' or 'deadline')
    elseif state == 'running' and kind == 'whole' then
      change(run, 'cancelling', 'deadline', 'watchdog', 'ending', 'deadline')
      count = count + 1
    end
  end
end
flush()
return count
