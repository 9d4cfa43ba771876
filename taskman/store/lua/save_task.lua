-- save_task: creates or replaces a task and sets when its schedules are due next.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] name   ARGV[3] revision it must have ('' any, 0: must not exist)
-- ARGV[4] definition (JSON, opaque)   ARGV[5] enabled, 1 or 0
-- then 6 for each schedule that is due, waits for ends of runs, or counts its runs: schedule,
--   next due instant at which it may fire (epoch ms, '' none), first instant before that one at which it may not
--   (epoch ms, '' none), mark ('' when its runs are not counted), how many runs it may have ('' any number),
--   what it waits for ('' nothing, else see the prelude)
-- Reply: {the new revision, when created, epoch ms, next due instant or '', 1 when it is new else 0}; {-1, revision found} when the revision does not match
-- Safe to repeat: the same definition again is one more revision of the same.
local name = ARGV[2]
local key = P .. 'task:' .. name
local f = call('HMGET', key, 'revision', 'created')
local revision = tonumber(f[1] or '0')
if ARGV[3] ~= '' and revision ~= tonumber(ARGV[3]) then return {-1, revision} end

-- What the schedules before have fired, by mark; and no trace of them stays.
local function clear()
  local counts = {}
  local fields = call('HGETALL', key)
  for i = 1, #fields, 2 do
    local kind, schedule = string.match(fields[i], '^(%l+):(%d+)')
    if kind == 'chain' then unhook(name, schedule, fields[i + 1]) end
    if kind then call('HDEL', key, fields[i]) end
    if kind == 'cursor' then call('ZREM', P .. 'schedules', name .. ' ' .. schedule) end
    if kind == 'fired' then
      local mark, count = string.match(fields[i + 1], '^(%x+) (%d+)$')
      counts[mark] = math.max(counts[mark] or 0, tonumber(count))
    end
  end
  return counts
end

local counts, earliest = clear(), ''
local created = f[2] or text(now)
local following = revision > 0 and revision + 1 or tonumber(call('GET', P .. 'retired') or '0') + 1
call('HSET', key, 'revision', following, 'created', created, 'updated', text(now), 'definition', ARGV[4],
  'enabled', ARGV[5])
call('ZADD', P .. 'tasks', 0, name)
for i = 6, #ARGV, 6 do
  local schedule, due, skips, mark, most, chain = unpack(ARGV, i, i + 5)
  local count = counts[mark]
  if count then call('HSET', key, 'fired:' .. schedule, mark .. ' ' .. text(count)) end
  local is_over = most ~= '' and (count or 0) >= tonumber(most)
  if chain ~= '' and not is_over then hook(name, schedule, chain) end
  if due ~= '' and not is_over then
    if skips ~= '' then call('HSET', key, 'skips:' .. schedule, skips) end
    set_due(name, schedule, due)
    if earliest == '' or tonumber(due) < tonumber(earliest) then earliest = due end
  end
end
announce('task', name, revision == 0 and 'created' or 'changed')
flush()
return {following, tonumber(created), earliest, revision == 0 and 1 or 0}
