-- prelude: what every script shares. KEYS[1] is the shard's prefix, such as tm:{0}: ; every key of the shard begins
-- with it, so the script runs in one slot. ARGV[1] is always the time, epoch ms: 0 means Redis TIME; tests pass one.
-- Validate first, write second: a script that fails midway is not rolled back. User data is opaque here.
local P = KEYS[1]
local call = redis.call

local function text(number) return string.format('%.0f', number) end

local now = tonumber(ARGV[1])
if now == 0 then
  local t = call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local NOW = text(now)

-- A script whose first write needs no memory is let through whole when Redis is full: transitions of runs that
-- exist begin with this, creating scripts do not.
local function settling() call('ZREM', P .. 'leases', '') end

-- Index moves and events are gathered and written once per call; of a run that moves twice the ends count.
local moves, lines, unfinished = {}, {}, {}

local function move(id, from, to)
  if moves[id] then moves[id].to = to else moves[id] = {from = from, to = to} end
end

-- How many runs of a task are not final.
local function count_unfinished(run, step)
  if run.task ~= '' then unfinished[run.task] = (unfinished[run.task] or 0) + step end
end

local function announce(...) lines[#lines + 1] = table.concat({...}, ' ') end

-- run: {id, state, attempt, worker, sig, task, history, opt, ending, suspect, log}; nil fields read as false.
-- opt holds what the scripts must know of a run's options, as ' name=value' words; plain runs have none:
--   sd start deadline, dl deadline, gr grace before a suspect run is lost (all ms)   ml how often it may be lost
--   pm permits, as name=capacity,...   lv group of runs that may overlap no further than its permit's capacity
--   uq unique key, as digest:while (pending, active or ms)
--   pl all: it is not claimed but becomes a child on each worker   pa a child's parent, whose outcome its own is part of
-- Up to two more fields may be asked for; they follow the run.
local function load(id, ...)
  local f = call('HMGET', P .. 'run:' .. id, 'state', 'attempt', 'worker', 'sig', 'task', 'history', 'opt', 'ending',
    'suspect', 'log', ...)
  if not f[1] then return nil end
  return {id = id, state = f[1], attempt = f[2], worker = f[3] or '', sig = f[4], task = f[5] or '', history = f[6],
    opt = f[7] or '', ending = f[8], suspect = f[9], log = f[10]}, f[11], f[12]
end

local function option(run, name) return string.match(run.opt, ' ' .. name .. '=(%S+)') end

local FINAL = {succeeded = true, failed = true, cancelled = true, skipped = true}

-- Permits: a run with permits starts only while each has room; see claim. Blocked runs wait in lines, one for each
-- room and signature: waiting:<permit> lists them as '<room> <signature>'. All of a line want the same, so its first
-- can go whenever one of it can; and a line that no worker serves now, or whose queue is paused, holds up no other.
local function none() return nil end

local function permits(run)
  if run.opt == '' then return none end
  return string.gmatch(option(run, 'pm') or '', '([^=,]+)=(%d+)')
end

local function line(permit, room, sig) return P .. 'waiting:' .. permit .. ' ' .. room .. ' ' .. sig end

local function capacity(run, wanted)
  for permit, room in permits(run) do
    if permit == wanted then return tonumber(room) end
  end
  return 0
end

-- The first permit without room, and the room that it would need to have; or nil when all have been taken.
local function lacking(run)
  if run.opt == '' then return nil end
  for permit, room in permits(run) do
    if call('SCARD', P .. 'permit:' .. permit) >= tonumber(room) then return permit, room end
  end
  for permit in permits(run) do call('SADD', P .. 'permit:' .. permit, run.id) end
end

-- A level of priority is worth five minutes of waiting, so nobody starves.
local function score(run)
  local priority = run.priority or call('HGET', P .. 'run:' .. run.id, 'priority') or '0'
  return text(now - tonumber(priority) * 300000)
end

local function note(run, to, reason, by)
  run.history = run.history .. NOW .. ' ' .. to .. ' ' .. reason .. ' ' .. run.attempt .. ' ' .. by .. '\n'
end

local function tell(run, reason)
  lines[#lines + 1] = 'run ' .. run.id .. ' ' .. run.state .. ' ' .. reason .. ' ' .. run.attempt .. ' ' ..
    (run.worker == '' and '-' or run.worker) .. ' ' .. (run.task == '' and '-' or run.task) .. ' ' .. run.sig
end

local function forget_unique(run, while_)
  local digest = string.match(option(run, 'uq') or '', '^(%x+):' .. while_ .. '$')
  if digest and call('GET', P .. 'unique:' .. digest) == run.id then call('DEL', P .. 'unique:' .. digest) end
end

local function unique_holder(run)
  local digest, while_ = string.match(option(run, 'uq') or '', '^(%x+):(%w+)$')
  local holder = digest and call('GET', P .. 'unique:' .. digest)
  -- for a period the key outlives the run, which may be forgotten before
  return holder and (tonumber(while_) or call('EXISTS', P .. 'run:' .. holder) == 1) and holder or nil
end

local function take_unique(run)
  local digest, while_ = string.match(option(run, 'uq') or '', '^(%x+):(%w+)$')
  if not digest then return end
  call('SET', P .. 'unique:' .. digest, run.id)
  if tonumber(while_) then call('PEXPIRE', P .. 'unique:' .. digest, while_) end
end

-- A log of some size is compacted when its run is final, by whichever server gets to it.
local WORTH_COMPACTING = 4096

local function close_log(run)
  if not run.log then return end
  call('HDEL', P .. 'run:' .. run.id, 'log')
  if tonumber(string.match(run.log, '^%d+')) >= WORTH_COMPACTING then call('SADD', P .. 'unpacked', run.id) end
end

-- How many children of each placed run have ended in this call; joined once, at the end of it.
local ended

local function end_for_parent(run)
  local parent = option(run, 'pa')
  if not parent then return end
  ended = ended or {}
  ended[parent] = (ended[parent] or 0) + 1
end

-- The tasks whose runs have ended in this call, each with the states they ended in: other schedules may wait for that.
local ends = {}

local function note_end(run)
  if run.task == '' then return end
  ends[run.task] = ends[run.task] or {}
  ends[run.task][run.state] = true
end

-- What ends with a run: its deadlines, its unique key, its place in its group. Followers of the log hear of it.
local function close(run)
  count_unfinished(run, -1)
  note_end(run)
  close_log(run)
  if run.opt ~= '' then
    call('ZREM', P .. 'deadlines', 'start ' .. run.id, 'whole ' .. run.id)
    forget_unique(run, 'active')
    forget_unique(run, 'pending')
    local group = option(run, 'lv')
    if group then call('SREM', P .. 'live:' .. group, run.id) end
    end_for_parent(run)
  end
  call('PUBLISH', P .. 'run:' .. run.id .. ':log', 'end')
end

-- One change of state: hash, history, index, event. More fields to set may follow as name, value pairs.
local function change(run, to, reason, by, ...)
  local from = run.state
  note(run, to, reason, by)
  call('HSET', P .. 'run:' .. run.id, 'state', to, 'history', run.history, ...)
  move(run.id, from, to)
  run.state = to
  tell(run, reason)
  if FINAL[to] then close(run) end
end

-- The one way into the ready set; a run that was blocked keeps the score that it had there.
local function make_ready(run, kept)
  call('ZADD', P .. 'ready:' .. run.sig, kept or score(run), run.id)
  if run.opt ~= '' and option(run, 'pl') then announce('place', run.sig) end
end

-- Permits that may have room for others now: one was given back, or a run that had its turn does not start after all.
-- Looked at once, at the end of the call.
local freed = {}

local function pass_on(run)
  for permit in permits(run) do freed[permit] = true end
end

local function wait_in_line(run, permit, room, kept)
  call('SADD', P .. 'waiting:' .. permit, room .. ' ' .. run.sig)
  call('ZADD', line(permit, room, run.sig), kept, run.id)
end

-- As many of each line as the permit has room for go back to the ready set; the claim looks at all their permits again.
local function unblock(permit)
  local held = call('SCARD', P .. 'permit:' .. permit)
  for _, which in ipairs(call('SMEMBERS', P .. 'waiting:' .. permit)) do
    local room, sig = string.match(which, '^(%d+) (.+)$')
    local key, free = line(permit, room, sig), tonumber(room) - held
    local first = free > 0 and call('ZPOPMIN', key, free) or {}
    for n = 1, #first, 2 do
      local run = load(first[n])
      make_ready(run, first[n + 1])
      change(run, 'queued', 'unblocked', 'watchdog')
    end
    if call('EXISTS', key) == 0 then call('SREM', P .. 'waiting:' .. permit, which) end
  end
end

-- The attempt is over, whatever comes next. Leases go at the end of the call, which gives no new ones to the same runs.
local unleased = {}

local function unlease(run)
  unleased[#unleased + 1] = run.id
  if run.suspect then call('HDEL', P .. 'run:' .. run.id, 'suspect') end
  for permit in permits(run) do call('SREM', P .. 'permit:' .. permit, run.id) end
  pass_on(run)
end

-- What a cancelling run becomes: cancelled, or failed when a deadline has asked for it.
local function end_cancelling(run, by, ...)
  if run.ending then return change(run, 'failed', run.ending, by, ...) end
  change(run, 'cancelled', 'requested', by, ...)
end

-- running -> queued, or to its end when that was asked for; the attempt keeps its number as a fence.
local function give_back(run, reason, by)
  unlease(run)
  if run.state == 'cancelling' then return end_cancelling(run, by) end
  make_ready(run)
  run.worker = ''
  change(run, 'queued', reason, by, 'worker', '')
end

-- A lost attempt has its own budget, so that a run which kills its workers cannot do so for ever.
local function lose(run, by)
  local max_lost = tonumber(option(run, 'ml') or '3')
  if run.state == 'running' and call('HINCRBY', P .. 'run:' .. run.id, 'lost', 1) > max_lost then
    unlease(run)
    local message = max_lost == 0 and 'lost: its worker went away, and it may have worked' or
      'lost ' .. max_lost + 1 .. ' times: every worker that held it went away'
    return change(run, 'failed', 'lost', by, 'error', message)
  end
  give_back(run, 'lost', by)
end

-- A run that waits, wherever, waits no more.
local function leave_waiting(run)
  call('ZREM', P .. 'delayed', run.id)
  call('ZREM', P .. 'ready:' .. run.sig, run.id)
  for permit, room in permits(run) do call('ZREM', line(permit, room, run.sig), run.id) end
  pass_on(run)
end

local function end_waiting(run, to, reason, by)
  leave_waiting(run)
  change(run, to, reason, by)
end

local WAITING = {scheduled = true, queued = true, blocked = true}

local function each_child(run, act, ...)
  if run.opt == '' or not option(run, 'pl') then return end
  for _, id in ipairs(call('ZRANGE', P .. 'run:' .. run.id .. ':children', 0, -1)) do act(load(id), ...) end
end

-- Waiting runs are cancelled at once, a running one when its worker has ended it, or with the last of its children.
local function cancel(run, reason, by)
  if run.state == 'running' then
    change(run, 'cancelling', reason, by)
    return each_child(run, cancel, reason, by)
  end
  if WAITING[run.state] then end_waiting(run, 'cancelled', reason, by) end
end

-- The result of a placed run: how many children ended how, and which; of very many, those that did not succeed first.
local MOST_LISTED = 1000

local function outcome_of_children(id)
  local count, good, bad = {succeeded = 0, failed = 0, cancelled = 0}, {}, {}
  for _, child in ipairs(call('ZRANGE', P .. 'run:' .. id .. ':children', 0, -1)) do
    local f = call('HMGET', P .. 'run:' .. child, 'state', 'sig')
    count[f[1]] = count[f[1]] + 1
    local list = f[1] == 'succeeded' and good or bad
    if #list < MOST_LISTED then
      local worker = string.match(f[2], '[|,]worker=([^,]+)')
      list[#list + 1] = '"' .. worker .. '":{"run":"' .. child .. '","state":"' .. f[1] .. '"}'
    end
  end
  local listed = #bad
  for n = 1, math.min(#good, MOST_LISTED - listed) do bad[listed + n] = good[n] end
  return count, '{"succeeded":' .. count.succeeded .. ',"failed":' .. count.failed .. ',"cancelled":' ..
    count.cancelled .. ',"workers":{' .. table.concat(bad, ',') .. '}}'
end

-- running, cancelling -> its end, once the last child has ended.
local function join(id, number)
  if call('HEXISTS', P .. 'run:' .. id, 'left') == 0 or call('HINCRBY', P .. 'run:' .. id, 'left', -number) > 0 then
    return
  end
  call('HDEL', P .. 'run:' .. id, 'left')
  call('SREM', P .. 'placed', id)
  local run = load(id)
  local count, result = outcome_of_children(id)
  local others = count.failed + count.cancelled
  unlease(run)
  if others == 0 then return change(run, 'succeeded', '-', 'placement', 'result', result) end
  if run.state == 'cancelling' then return end_cancelling(run, 'placement', 'result', result) end
  change(run, 'failed', 'children', 'placement', 'result', result, 'error',
    'did not succeed on ' .. others .. ' of ' .. count.succeeded + others .. ' workers')
end

-- Where a new run begins, given what else there is of its group or with its unique key; `overlap` is skip, replace or
-- nil. To submit, a unique key that is held is an answer, and no run is made; a schedule records that it skipped.
local function first_state(run, due, overlap, by)
  if unique_holder(run) then return 'skipped', 'overlap' end
  local group = option(run, 'lv')
  if group and overlap == 'skip' and call('SCARD', P .. 'live:' .. group) >= capacity(run, group) then
    return 'skipped', 'overlap'
  end
  if group and overlap == 'replace' then
    for _, id in ipairs(call('SMEMBERS', P .. 'live:' .. group)) do cancel(load(id), 'replaced', by) end
  end
  return due > now and 'scheduled' or 'queued', '-'
end

local function set_deadlines(run, begin)
  local start, whole = option(run, 'sd'), option(run, 'dl')
  if start then call('ZADD', P .. 'deadlines', text(begin + tonumber(start)), 'start ' .. run.id) end
  if whole then call('ZADD', P .. 'deadlines', text(begin + tonumber(whole)), 'whole ' .. run.id) end
end

local signatures = {} -- that are known to be in their set

-- A run comes into being.
local function create(run, due, spec, overlap, by)
  local state, reason = first_state(run, due, overlap, by)
  local fields = {'attempt', 0, 'sig', run.sig, 'spec', spec, 'due', text(math.max(due, now))}
  for name, value in pairs({task = run.task, opt = run.opt, priority = run.priority}) do
    if value ~= '' and value ~= '0' then
      table.insert(fields, name)
      table.insert(fields, value)
    end
  end
  if not signatures[run.sig] then
    signatures[run.sig] = true
    call('SADD', P .. 'signatures', run.sig)
  end
  count_unfinished(run, 1)
  if run.opt ~= '' and state ~= 'skipped' then
    local group = option(run, 'lv')
    if group then call('SADD', P .. 'live:' .. group, run.id) end
    take_unique(run)
    set_deadlines(run, math.max(due, now))
  end
  change(run, state, reason, by, unpack(fields))
  if run.task ~= '' then call('ZADD', P .. 'task:' .. run.task .. ':runs', 0, run.id) end
  if state == 'scheduled' then
    call('ZADD', P .. 'delayed', text(due), run.id)
    announce('due', text(due))
  elseif state == 'queued' then
    make_ready(run)
  end
end

local function in_slices(command, key, members)
  for first = 1, #members, 4000 do
    call(command, key, unpack(members, first, math.min(first + 3999, #members)))
  end
end

-- Schedules that wait for the ends of runs: chain:<schedule> of a task lists what it waits for, as '<task> <on>' words,
-- on being success, failure, always, or a number: a delay (ms) after any end. downstream:<task> has the opposite.
-- met:<schedule>:<task> is the end that counts; last:<schedule> when the whole set was met last.
local function waits_for(chain) return string.gmatch(chain or '', '(%S+) (%S+)') end

local function hook(name, schedule, chain)
  for above, on in waits_for(chain) do call('HSET', P .. 'downstream:' .. above, name .. ' ' .. schedule, on) end
  call('HSET', P .. 'task:' .. name, 'chain:' .. schedule, chain)
end

local function unhook(name, schedule, chain)
  for above in waits_for(chain) do call('HDEL', P .. 'downstream:' .. above, name .. ' ' .. schedule) end
  call('HDEL', P .. 'task:' .. name, 'chain:' .. schedule)
end

local function set_due(name, schedule, due)
  call('HSET', P .. 'task:' .. name, 'cursor:' .. schedule, due)
  call('ZADD', P .. 'schedules', due, name .. ' ' .. schedule)
  announce('due', due)
end

-- Due, once all that it waits for has ended as wanted, and what was met before has fired. Each end counts once.
local function complete(name, schedule)
  local key = P .. 'task:' .. name
  local f = call('HMGET', key, 'chain:' .. schedule, 'cursor:' .. schedule, 'last:' .. schedule)
  if not f[1] or f[2] then return end
  local fields, due = {}, 0
  for above in waits_for(f[1]) do fields[#fields + 1] = 'met:' .. schedule .. ':' .. above end
  for _, at in ipairs(call('HMGET', key, unpack(fields))) do
    if not at then return end
    due = math.max(due, tonumber(at))
  end
  if due == tonumber(f[3] or '0') then due = due + 1 end
  call('HDEL', key, unpack(fields))
  call('HSET', key, 'last:' .. schedule, text(due))
  set_due(name, schedule, text(due))
end

local function is_wanted(on, states)
  if on == 'success' then return states.succeeded end
  if on == 'failure' then return states.failed end
  return states.succeeded or states.failed or states.cancelled
end

-- All ends of a call are noted before any set is complete, so that the order in which they are told is no matter.
local function tell_downstream(above, states, met)
  local waiting = call('HGETALL', P .. 'downstream:' .. above)
  for i = 1, #waiting, 2 do
    local name, schedule = string.match(waiting[i], '^(%S+) (%d+)$')
    local on, delay = waiting[i + 1], tonumber(waiting[i + 1])
    if delay then
      -- a run that was skipped took no time, and must not be followed by the next one at once
      local least = is_wanted('always', states) and 1 or 1000
      set_due(name, schedule, text(now + math.max(delay, least)))
    elseif is_wanted(on, states) then
      call('HSET', P .. 'task:' .. name, 'met:' .. schedule .. ':' .. above, NOW)
      met[#met + 1] = {name, schedule}
    end
  end
end

local function wake_downstream()
  local met = {}
  for task, states in pairs(ends) do tell_downstream(task, states, met) end
  for _, one in ipairs(met) do complete(one[1], one[2]) end
end

local function flush()
  if ended then
    for parent, number in pairs(ended) do join(parent, number) end
  end
  for permit in pairs(freed) do unblock(permit) end
  wake_downstream()
  in_slices('ZREM', P .. 'leases', unleased)
  local leaving, entering = {}, {}
  for id, ends in pairs(moves) do
    if ends.from then
      local ids = leaving[ends.from] or {}
      leaving[ends.from] = ids
      ids[#ids + 1] = id
    end
    local members = entering[ends.to] or {}
    entering[ends.to] = members
    members[#members + 1], members[#members + 2] = 0, id
  end
  for state, ids in pairs(leaving) do in_slices('ZREM', P .. 'state:' .. state, ids) end
  for state, members in pairs(entering) do in_slices('ZADD', P .. 'state:' .. state, members) end
  for task, step in pairs(unfinished) do
    if step ~= 0 and call('HINCRBY', P .. 'unfinished', task, step) <= 0 then call('HDEL', P .. 'unfinished', task) end
  end
  if #lines == 0 then return end
  local body = table.concat(lines, '\n')
  local id = call('XADD', P .. 'events', 'MAXLEN', '~', 10000, '*', 'e', body)
  call('PUBLISH', P .. 'events', id .. '\n' .. body)
end
