-- save_task: creates or replaces a task and sets when its schedules are due next.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] name   ARGV[3] revision it must have ('' any, 0: must not exist)
-- ARGV[4] definition (JSON, opaque)   ARGV[5] enabled, 1 or 0
-- then 2 for each schedule with a next due instant: schedule, due (epoch ms)
-- Reply: {the new revision, when created, epoch ms}; {-1, revision found} when the revision does not match
-- Safe to repeat: the same definition again is one more revision of the same.
local name = ARGV[2]
local key = P .. 'task:' .. name
local f = call('HMGET', key, 'revision', 'created')
local revision = tonumber(f[1] or '0')
if ARGV[3] ~= '' and revision ~= tonumber(ARGV[3]) then return {-1, revision} end
for _, field in ipairs(call('HKEYS', key)) do
  local schedule = string.match(field, '^cursor:(.+)$')
  if schedule then
    call('HDEL', key, field)
    call('ZREM', P .. 'schedules', name .. ' ' .. schedule)
  end
end
local created = f[2] or text(now)
call('HSET', key, 'revision', revision + 1, 'created', created, 'updated', text(now), 'definition', ARGV[4],
  'enabled', ARGV[5])
call('ZADD', P .. 'tasks', 0, name)
for i = 6, #ARGV, 2 do
  call('HSET', key, 'cursor:' .. ARGV[i], ARGV[i + 1])
  call('ZADD', P .. 'schedules', ARGV[i + 1], name .. ' ' .. ARGV[i])
  announce('due', ARGV[i + 1])
end
announce('task', name, revision == 0 and 'created' or 'changed')
flush()
return {revision + 1, tonumber(created)}
