-- expand: queued -> running, for a run that is to be placed on all workers: it becomes one child for each, queued, and
-- ends with the last of them. queued -> blocked while a permit has no room, as in a claim.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] run id   ARGV[3] priority   ARGV[4] options of its children (see prelude)
-- then 3 for each child: id, signature (which names its worker), spec (JSON, opaque)
-- Reply: the state of the run afterwards, '' when there is none
-- Safe to repeat and to run on many servers at once: the first of them makes the children, whose ids it derives from the
--   run and the worker; a run that is not queued, or whose queue is paused, is left alone. Refused when Redis is full.
local run = load(ARGV[2])
if not run or run.state ~= 'queued' or not option(run, 'pl') or #ARGV < 7 then return run and run.state or '' end
if call('SISMEMBER', P .. 'paused', string.match(run.sig, '^[^|]*|([^|]*)|')) == 1 then return run.state end
local ready, key = P .. 'ready:' .. run.sig, P .. 'run:' .. run.id

local function block(permit, room)
  local kept = call('ZSCORE', ready, run.id)
  change(run, 'blocked', 'limit', 'placement')
  wait_in_line(run, permit, room, kept)
  pass_on(run)
end

local function add_child(id, sig, spec)
  local child = {id = id, state = false, attempt = '0', worker = '', sig = sig, priority = ARGV[3], task = '',
    history = '', opt = ARGV[4]}
  change(child, 'queued', '-', 'placement', 'attempt', 0, 'sig', sig, 'spec', spec, 'due', NOW, 'opt', child.opt)
  if ARGV[3] ~= '0' then call('HSET', P .. 'run:' .. id, 'priority', ARGV[3]) end
  set_deadlines(child, now)
  make_ready(child)
  call('ZADD', key .. ':children', 0, id)
end

local permit, room = lacking(run)
if permit then
  block(permit, room)
else
  run.attempt = text(tonumber(run.attempt) + 1)
  change(run, 'running', '-', 'placement', 'attempt', run.attempt, 'left', (#ARGV - 4) / 3)
  for i = 5, #ARGV, 3 do add_child(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
  call('SADD', P .. 'placed', run.id)
  call('ZREM', P .. 'deadlines', 'start ' .. run.id)
  forget_unique(run, 'pending')
end
call('ZREM', ready, run.id)
flush()
return run.state
