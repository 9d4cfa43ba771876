-- promote: scheduled -> queued, for every delayed run that is due, at most `limit` of them.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] limit
-- Reply: {now, number promoted, due of the next delayed run or '', due of the next schedule or ''}
-- Safe to repeat and to run on many servers at once.
local due = call('ZRANGEBYSCORE', P .. 'delayed', '-inf', text(now), 'LIMIT', 0, tonumber(ARGV[2]))
if #due > 0 then settling() end
for _, id in ipairs(due) do
  call('ZREM', P .. 'delayed', id)
  local run = load(id)
  if run and run.state == 'scheduled' then
    make_ready(run)
    change(run, 'queued', 'due', 'scheduler')
  end
end
flush()
local function head(key)
  local first = call('ZRANGE', P .. key, 0, 0, 'WITHSCORES')
  return first[2] and text(tonumber(first[2])) or ''
end
return {now, #due, head('delayed'), head('schedules')}
