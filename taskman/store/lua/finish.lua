-- finish: running or cancelling -> succeeded, failed, cancelled; or -> queued when the worker gives the run back.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] worker
-- then 6 for each run: id, attempt, outcome (succeeded failed cancelled released lost), reason ('-' none),
--   result (JSON, opaque, '' none), error ('' none)
-- Reply: the state of each run afterwards; 'stale' when the attempt is not the current one of this worker.
-- Safe to repeat: the second time the run is final already, and its state is the reply.
local MAX_LOST = 3
local worker = ARGV[2]
local by, reply = 'worker:' .. worker, {}
settling()
for i = 3, #ARGV, 6 do
  local id, attempt, outcome, reason = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local run = load(id)
  if not run or run.attempt ~= attempt or run.worker ~= worker then
    table.insert(reply, 'stale')
  else
    if run.state == 'running' or run.state == 'cancelling' then
      if outcome == 'released' then
        give_back(run, 'released', by)
      elseif outcome == 'lost' then
        lose(run, MAX_LOST, by)
      else
        unlease(run)
        local fields = {}
        if ARGV[i + 4] ~= '' then fields = {'result', ARGV[i + 4]} end
        if ARGV[i + 5] ~= '' then
          table.insert(fields, 'error')
          table.insert(fields, ARGV[i + 5])
        end
        change(run, outcome, reason, by, unpack(fields))
      end
    end
    table.insert(reply, run.state)
  end
end
flush()
return reply
