-- fire: records the outcomes of due instants of schedules, creates their runs, and moves the schedules on. A batch.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms
-- then 9 for each schedule: task, schedule, revision of the task,
--   due instant the caller saw (epoch ms), next due instant at which it may fire (epoch ms, '' none that is known,
--   '-' never again),
--   first instant before that one at which it may not (epoch ms, '' none),
--   mark of the schedule ('' when its runs are not counted), number of spans, number of runs;
--   5 for each span: outcome (missed or skipped), its first and last instant (epoch ms), how many they are, reason
--   ('-' none);
--   8 for each run: fire time (epoch ms), due with its jitter (epoch ms), run id, signature, priority, options for the
--   scripts (see prelude), overlap (skip, replace or ''), spec (opaque)
-- Reply: for each schedule 1 fired, 0 when another server was first, or the task has changed, or it is not due yet
-- Safe to repeat and to run on many servers at once: the cursor and the revision are compared first.
local KEPT = 1000

local function move_on(key, member, schedule, upcoming, skips, skipped)
  if upcoming == '' or upcoming == '-' then
    call('ZREM', P .. 'schedules', member)
    call('HDEL', key, 'cursor:' .. schedule)
  else
    call('ZADD', P .. 'schedules', upcoming, member)
    call('HSET', key, 'cursor:' .. schedule, upcoming)
  end
  if skips ~= '' then call('HSET', key, 'skips:' .. schedule, skips)
  elseif skipped then call('HDEL', key, 'skips:' .. schedule) end
end

local function state_of_run(task, i)
  local id, overlap = ARGV[i + 2], ARGV[i + 6]
  local state = call('HGET', P .. 'run:' .. id, 'state')
  if state then return state end
  local run = {id = id, state = false, attempt = '0', worker = '', sig = ARGV[i + 3], priority = ARGV[i + 4],
    task = task, history = '', opt = ARGV[i + 5]}
  create(run, tonumber(ARGV[i + 1]), ARGV[i + 7], overlap ~= '' and overlap or nil, 'scheduler')
  return run.state
end

-- The outcomes as members of the ledger with their scores: of a span the last instant stands for all.
local function outcomes(task, schedule, i, spans, runs)
  local members = {}
  for at = i, i + 5 * spans - 1, 5 do
    members[#members + 1] = ARGV[at + 2]
    members[#members + 1] = table.concat({ARGV[at + 2], ARGV[at], schedule, ARGV[at + 1], ARGV[at + 3],
      ARGV[at + 4]}, ' ')
  end
  for at = i + 5 * spans, i + 5 * spans + 8 * runs - 1, 8 do
    local outcome = state_of_run(task, at) == 'skipped' and 'skipped' or 'fired'
    members[#members + 1] = ARGV[at]
    members[#members + 1] = table.concat({ARGV[at], outcome, schedule, ARGV[at + 2]}, ' ')
  end
  return members
end

local function fire(i, spans, runs)
  local task, schedule, mark = ARGV[i], ARGV[i + 1], ARGV[i + 6]
  local key = P .. 'task:' .. task
  local f = call('HMGET', key, 'revision', 'enabled', 'cursor:' .. schedule, 'skips:' .. schedule,
    'chain:' .. schedule)
  if f[1] ~= ARGV[i + 2] or f[2] ~= '1' or f[3] ~= ARGV[i + 3] then return 0 end
  if runs > 0 and tonumber(ARGV[i + 3]) > now then return 0 end -- the caller's clock is fast
  move_on(key, task .. ' ' .. schedule, schedule, ARGV[i + 4], ARGV[i + 5], f[4])
  if f[5] and ARGV[i + 4] == '-' then unhook(task, schedule, f[5])
  elseif f[5] then complete(task, schedule) end
  if mark ~= '' then
    local fired = string.match(call('HGET', key, 'fired:' .. schedule) or '', ' (%d+)$') or 0
    call('HSET', key, 'fired:' .. schedule, mark .. ' ' .. text(fired + runs))
  end
  local members = outcomes(task, schedule, i + 9, spans, runs)
  in_slices('ZADD', key .. ':ledger', members)
  if #members > 0 then call('ZREMRANGEBYRANK', key .. ':ledger', 0, -KEPT - 1) end
  return 1
end

local reply, i = {}, 2
while ARGV[i] do
  local spans, runs = tonumber(ARGV[i + 7]), tonumber(ARGV[i + 8])
  reply[#reply + 1] = fire(i, spans, runs)
  i = i + 9 + 5 * spans + 8 * runs
end
flush()
return reply
