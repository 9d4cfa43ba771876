-- finish: running or cancelling -> succeeded, failed, cancelled; -> scheduled for another attempt; -> queued when the
-- worker gives the run back.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] worker
-- then 7 for each run: id, attempt, outcome (succeeded failed cancelled retry released lost), reason ('-' none),
--   result (JSON, opaque, '' none), error ('' none), wait before the next attempt (ms, for retry)
-- Reply: the state of each run afterwards; 'stale' when the attempt is not the current one of this worker.
-- Safe to repeat: the second time the run is final already, or no longer this worker's, and changes no more.
local worker = ARGV[2]
local by, reply = 'worker:' .. worker, {}

local function retry(run, reason, result, wait_ms)
  unlease(run)
  local due = text(now + wait_ms)
  call('HINCRBY', P .. 'run:' .. run.id, 'failures', 1)
  if result ~= '' then call('HSET', P .. 'run:' .. run.id, 'result:' .. run.attempt, result) end
  run.worker = ''
  change(run, 'scheduled', reason, by, 'worker', '', 'due', due)
  call('ZADD', P .. 'delayed', due, run.id)
  announce('due', due)
end

local function settle(run, outcome, reason, result, error, wait_ms)
  if outcome == 'released' then return give_back(run, 'released', by) end
  if outcome == 'lost' then return lose(run, by) end
  if outcome == 'retry' and run.state == 'running' then return retry(run, reason, result, wait_ms) end
  -- Nobody has asked for it as far as this Redis remembers: it was recorded, and lost with the last second of writes.
  if outcome == 'cancelled' then cancel(run, 'requested', by) end
  local fields = {}
  if result ~= '' then fields = {'result', result} end
  if error ~= '' then
    table.insert(fields, 'error')
    table.insert(fields, error)
  end
  unlease(run)
  if outcome == 'cancelled' or outcome == 'retry' then return end_cancelling(run, by, unpack(fields)) end
  change(run, outcome, reason, by, unpack(fields))
end

settling()
for i = 3, #ARGV, 7 do
  local run = load(ARGV[i])
  if not run or run.attempt ~= ARGV[i + 1] or run.worker ~= worker then
    table.insert(reply, 'stale')
  else
    if run.state == 'running' or run.state == 'cancelling' then
      settle(run, ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], tonumber(ARGV[i + 6]))
    end
    table.insert(reply, run.state)
  end
end
flush()
return reply
