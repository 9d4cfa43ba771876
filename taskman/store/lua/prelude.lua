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

-- A script whose first write needs no memory is let through whole when Redis is full: transitions of runs that
-- exist begin with this, creating scripts do not.
local function settling() call('ZREM', P .. 'leases', '') end

-- Index moves and events are gathered and written once per call; of a run that moves twice the ends count.
local moves, lines = {}, {}

local function move(id, from, to)
  if moves[id] then moves[id].to = to else moves[id] = {from = from, to = to} end
end

local function announce(...) table.insert(lines, table.concat({...}, ' ')) end

-- run: {id, state, attempt, worker, sig, task, history, opt, ending}; nil fields read as false from HMGET.
-- opt holds what the scripts must know of a run's options, as ' name=value' words; plain runs have none:
--   sd start deadline, dl deadline, gr grace before a suspect run is lost (all ms)   ml how often it may be lost
--   pm permits, as name=capacity,...   lv group of runs that may overlap no further than its permit's capacity
--   uq unique key, as digest:while (pending, active or ms)
local function load(id)
  local f = call('HMGET', P .. 'run:' .. id, 'state', 'attempt', 'worker', 'sig', 'task', 'history', 'opt', 'ending')
  if not f[1] then return nil end
  return {id = id, state = f[1], attempt = f[2], worker = f[3] or '', sig = f[4], task = f[5] or '', history = f[6],
    opt = f[7] or '', ending = f[8]}
end

local function option(run, name) return string.match(run.opt, ' ' .. name .. '=(%S+)') end

local FINAL = {succeeded = true, failed = true, cancelled = true, skipped = true}

-- Permits: a run with permits starts only while each has room; see claim. Giving one back lets the next ones try.
local function permits(run) return string.gmatch(option(run, 'pm') or '', '([^=,]+)=(%d+)') end

local function capacity(run, wanted)
  for permit, room in permits(run) do
    if permit == wanted then return tonumber(room) end
  end
  return 0
end

-- A level of priority is worth five minutes of waiting, so nobody starves.
local function score(run)
  local priority = run.priority or call('HGET', P .. 'run:' .. run.id, 'priority') or '0'
  return text(now - tonumber(priority) * 300000)
end

local function note(run, to, reason, by)
  run.history = run.history .. text(now) .. ' ' .. to .. ' ' .. reason .. ' ' .. run.attempt .. ' ' .. by .. '\n'
end

local function tell(run, reason)
  announce('run', run.id, run.state, reason, run.attempt, run.worker == '' and '-' or run.worker,
    run.task == '' and '-' or run.task, run.sig)
end

local function forget_unique(run, while_)
  local digest = string.match(option(run, 'uq') or '', '^(%x+):' .. while_ .. '$')
  if digest and call('GET', P .. 'unique:' .. digest) == run.id then call('DEL', P .. 'unique:' .. digest) end
end

-- What ends with a run: its deadlines, its unique key, its place in its group. Followers of the log hear of it.
local function close(run)
  if run.opt ~= '' then
    call('ZREM', P .. 'deadlines', 'start ' .. run.id, 'whole ' .. run.id)
    forget_unique(run, 'active')
    forget_unique(run, 'pending')
    local group = option(run, 'lv')
    if group then call('SREM', P .. 'live:' .. group, run.id) end
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

-- The one way into the ready set.
local function make_ready(run) call('ZADD', P .. 'ready:' .. run.sig, score(run), run.id) end

-- Whoever waits for a permit with room goes back to the ready set; the claim looks at all its permits again.
local function unblock(permit)
  local held = call('SCARD', P .. 'permit:' .. permit)
  for _, id in ipairs(call('ZRANGE', P .. 'waiting:' .. permit, 0, 99)) do
    local run = load(id)
    if run and run.state == 'blocked' and held >= capacity(run, permit) then return end
    call('ZREM', P .. 'waiting:' .. permit, id)
    if run and run.state == 'blocked' then
      make_ready(run)
      change(run, 'queued', 'unblocked', 'watchdog')
      held = held + 1
    end
  end
end

local function give_up_permits(run)
  for permit in permits(run) do
    call('SREM', P .. 'permit:' .. permit, run.id)
    unblock(permit)
  end
end

-- The attempt is over, whatever comes next.
local function unlease(run)
  call('ZREM', P .. 'leases', run.id)
  if run.opt ~= '' then give_up_permits(run) end
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
  call('HDEL', P .. 'run:' .. run.id, 'suspect')
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

-- Waiting runs are cancelled at once, a running one when its worker has ended it.
local function cancel(run, reason, by)
  if run.state == 'running' then return change(run, 'cancelling', reason, by) end
  if run.state ~= 'scheduled' and run.state ~= 'queued' and run.state ~= 'blocked' then return end
  call('ZREM', P .. 'delayed', run.id)
  call('ZREM', P .. 'ready:' .. run.sig, run.id)
  for permit in permits(run) do call('ZREM', P .. 'waiting:' .. permit, run.id) end
  change(run, 'cancelled', reason, by)
  for permit in permits(run) do unblock(permit) end
end

-- Where a new run begins, given what else of its group is live; `overlap` is skip, replace or nil.
local function first_state(run, due, overlap, by)
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
  if whole then call('ZADD', P .. 'deadlines', text(now + tonumber(whole)), 'whole ' .. run.id) end
end

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
  call('SADD', P .. 'signatures', run.sig)
  if run.opt ~= '' and state ~= 'skipped' then
    local group = option(run, 'lv')
    if group then call('SADD', P .. 'live:' .. group, run.id) end
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

local function flush()
  local leaving, entering = {}, {}
  for id, ends in pairs(moves) do
    if ends.from then
      leaving[ends.from] = leaving[ends.from] or {}
      table.insert(leaving[ends.from], id)
    end
    entering[ends.to] = entering[ends.to] or {}
    table.insert(entering[ends.to], 0)
    table.insert(entering[ends.to], id)
  end
  for state, ids in pairs(leaving) do in_slices('ZREM', P .. 'state:' .. state, ids) end
  for state, members in pairs(entering) do in_slices('ZADD', P .. 'state:' .. state, members) end
  if #lines == 0 then return end
  local body = table.concat(lines, '\n')
  local id = call('XADD', P .. 'events', 'MAXLEN', '~', 10000, '*', 'e', body)
  call('PUBLISH', P .. 'events', id .. '\n' .. body)
end
