-- fire: records the outcome of a due instant of a schedule, creates its run, and moves the schedule on.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] task   ARGV[3] schedule   ARGV[4] revision of the task
-- ARGV[5] due instant the caller saw, epoch ms   ARGV[6] next due instant, epoch ms, '' none
-- ARGV[7] first missed instant, epoch ms, '' none   ARGV[8] last missed instant
-- ARGV[9] fire time, epoch ms   ARGV[10] run id   ARGV[11] signature   ARGV[12] priority   ARGV[13] options for the
-- scripts (see prelude)   ARGV[14] overlap: skip, replace or ''   ARGV[15] spec (opaque)
-- Reply: 1 fired, 0 when another server was first or the task has changed
-- Safe to repeat and to run on many servers at once: the cursor and the revision are compared first.
local task, schedule = ARGV[2], ARGV[3]
local key = P .. 'task:' .. task
local f = call('HMGET', key, 'revision', 'enabled', 'cursor:' .. schedule)
if f[1] ~= ARGV[4] or f[2] ~= '1' or f[3] ~= ARGV[5] then return 0 end
local member, ledger = task .. ' ' .. schedule, key .. ':ledger'
if ARGV[7] ~= '' then
  call('ZADD', ledger, ARGV[8], ARGV[8] .. ' missed ' .. schedule .. ' ' .. ARGV[7])
end
local id = ARGV[10]
if ARGV[6] == '' then
  call('ZREM', P .. 'schedules', member)
  call('HDEL', key, 'cursor:' .. schedule)
else
  call('ZADD', P .. 'schedules', ARGV[6], member)
  call('HSET', key, 'cursor:' .. schedule, ARGV[6])
end
local state = call('HGET', P .. 'run:' .. id, 'state')
if not state then
  local run = {id = id, state = false, attempt = '0', worker = '', sig = ARGV[11], priority = ARGV[12], task = task,
    history = '', opt = ARGV[13]}
  create(run, tonumber(ARGV[9]), ARGV[15], ARGV[14] ~= '' and ARGV[14] or nil, 'scheduler')
  state = run.state
end
local outcome = state == 'skipped' and 'skipped' or 'fired'
call('ZADD', ledger, ARGV[9], ARGV[9] .. ' ' .. outcome .. ' ' .. schedule .. ' ' .. id)
call('ZREMRANGEBYRANK', ledger, 0, -1001)
flush()
return 1
