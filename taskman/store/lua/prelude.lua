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

-- Index moves and events are gathered and written once per call.
local leaving, entering, lines = {}, {}, {}

local function move(id, from, to)
  if from then
    leaving[from] = leaving[from] or {}
    table.insert(leaving[from], id)
  end
  entering[to] = entering[to] or {}
  table.insert(entering[to], 0)
  table.insert(entering[to], id)
end

local function announce(...) table.insert(lines, table.concat({...}, ' ')) end

-- run: {id, state, attempt, worker, sig, task, history}; nil fields read as false from HMGET
local function load(id)
  local f = call('HMGET', P .. 'run:' .. id, 'state', 'attempt', 'worker', 'sig', 'task', 'history')
  if not f[1] then return nil end
  return {id = id, state = f[1], attempt = f[2], worker = f[3] or '', sig = f[4], task = f[5] or '', history = f[6]}
end

local FINAL = {succeeded = true, failed = true, cancelled = true, skipped = true}

-- One change of state: hash, history, index, event; whoever follows the log hears of its end there. More fields to set may follow as name, value pairs.
local function change(run, to, reason, by, ...)
  run.history = run.history .. text(now) .. ' ' .. to .. ' ' .. reason .. ' ' .. run.attempt .. ' ' .. by .. '\n'
  call('HSET', P .. 'run:' .. run.id, 'state', to, 'history', run.history, ...)
  move(run.id, run.state, to)
  announce('run', run.id, to, reason, run.attempt, run.worker == '' and '-' or run.worker,
    run.task == '' and '-' or run.task, run.sig)
  run.state = to
  if FINAL[to] then call('PUBLISH', P .. 'run:' .. run.id .. ':log', 'end') end
end

-- The one way into the ready set. A level of priority is worth five minutes of waiting, so nobody starves.
local function make_ready(run, priority)
  call('ZADD', P .. 'ready:' .. run.sig, text(now - priority * 300000), run.id)
end

local function unlease(run) call('ZREM', P .. 'leases', run.id) end

-- running -> queued, or -> cancelled when that was asked for; the attempt keeps its number as a fence.
local function give_back(run, reason, by)
  unlease(run)
  if run.state == 'cancelling' then return change(run, 'cancelled', 'requested', by) end
  make_ready(run, tonumber(call('HGET', P .. 'run:' .. run.id, 'priority') or '0'))
  run.worker = ''
  change(run, 'queued', reason, by, 'worker', '')
end

-- A lost attempt has its own budget, so that a run which kills its workers cannot do so for ever.
local function lose(run, max_lost, by)
  if run.state == 'running' and call('HINCRBY', P .. 'run:' .. run.id, 'lost', 1) > max_lost then
    unlease(run)
    return change(run, 'failed', 'lost', by, 'error', 'lost ' .. max_lost + 1 .. ' times: every worker that held it went away')
  end
  give_back(run, 'lost', by)
end

local function in_slices(command, key, members)
  for first = 1, #members, 4000 do
    call(command, key, unpack(members, first, math.min(first + 3999, #members)))
  end
end

local function flush()
  for state, ids in pairs(leaving) do in_slices('ZREM', P .. 'state:' .. state, ids) end
  for state, members in pairs(entering) do in_slices('ZADD', P .. 'state:' .. state, members) end
  if #lines == 0 then return end
  local body = table.concat(lines, '\n')
  local id = call('XADD', P .. 'events', 'MAXLEN', '~', 10000, '*', 'e', body)
  call('PUBLISH', P .. 'events', id .. '\n' .. body)
end
