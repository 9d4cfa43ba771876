-- submit: (none) -> queued, or -> scheduled when it is due later. A batch; all or nothing of it is created.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] by, percent-encoded
-- then 6 for each run: id, due (epoch ms, 0: at once), signature, priority, task ('' none), spec (JSON, opaque)
-- Reply: {now, 1 or 0 for each run: created, or there already}
-- Safe to repeat: an id that exists is left alone.
local by, reply = ARGV[2], {now}
for i = 3, #ARGV, 6 do
  local id, due, sig, priority, task = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local key = P .. 'run:' .. id
  if call('EXISTS', key) == 1 then
    table.insert(reply, 0)
  else
    local run = {id = id, state = false, attempt = '0', worker = '', sig = sig, task = task, history = ''}
    local later = due > now
    call('SADD', P .. 'signatures', sig)
    change(run, later and 'scheduled' or 'queued', '-', by, 'attempt', 0, 'sig', sig, 'spec', ARGV[i + 5],
      'due', text(later and due or now))
    if priority ~= '0' then call('HSET', key, 'priority', priority) end
    if task ~= '' then
      call('HSET', key, 'task', task)
      call('ZADD', P .. 'task:' .. task .. ':runs', 0, id)
    end
    if later then
      call('ZADD', P .. 'delayed', text(due), id)
      announce('due', text(due))
    else
      make_ready(run, tonumber(priority))
    end
    table.insert(reply, 1)
  end
end
flush()
return reply
