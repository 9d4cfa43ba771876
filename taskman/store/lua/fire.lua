-- fire: records the outcomes of due instants of schedules, creates their runs, and moves the schedules on. A batch.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms
-- then 14 for each: task, schedule, revision of the task,
--   due instant the caller saw (epoch ms), next due instant (epoch ms, '' none),
--   first missed instant (epoch ms, '' none), last missed instant,
--   fire time (epoch ms), run id, signature, priority, options for the scripts (see prelude),
--   overlap (skip, replace or ''), spec (opaque)
-- Reply: for each 1 fired, 0 when another server was first or the task has changed
-- Safe to repeat and to run on many servers at once: the cursor and the revision are compared first.
local function move_on(key, member, schedule, upcoming)
  if upcoming == '' then
    call('ZREM', P .. 'schedules', member)
    call('HDEL', key, 'cursor:' .. schedule)
  else
    call('ZADD', P .. 'schedules', upcoming, member)
    call('HSET', key, 'cursor:' .. schedule, upcoming)
  end
end

local function state_of_run(task, id, fire_time, sig, priority, opt, overlap, spec)
  local state = call('HGET', P .. 'run:' .. id, 'state')
  if state then return state end
  local run = {id = id, state = false, attempt = '0', worker = '', sig = sig, priority = priority, task = task,
    history = '', opt = opt}
  create(run, tonumber(fire_time), spec, overlap ~= '' and overlap or nil, 'scheduler')
  return run.state
end

local function fire(task, schedule, revision, due, upcoming, missed, last_missed, fire_time, id, ...)
  local key = P .. 'task:' .. task
  local f = call('HMGET', key, 'revision', 'enabled', 'cursor:' .. schedule)
  if f[1] ~= revision or f[2] ~= '1' or f[3] ~= due then return 0 end
  local ledger = key .. ':ledger'
  if missed ~= '' then
    call('ZADD', ledger, last_missed, last_missed .. ' missed ' .. schedule .. ' ' .. missed)
  end
  move_on(key, task .. ' ' .. schedule, schedule, upcoming)
  local outcome = state_of_run(task, id, fire_time, ...) == 'skipped' and 'skipped' or 'fired'
  call('ZADD', ledger, fire_time, fire_time .. ' ' .. outcome .. ' ' .. schedule .. ' ' .. id)
  call('ZREMRANGEBYRANK', ledger, 0, -1001)
  return 1
end

local reply = {}
for i = 2, #ARGV, 14 do reply[#reply + 1] = fire(unpack(ARGV, i, i + 13)) end
flush()
return reply
