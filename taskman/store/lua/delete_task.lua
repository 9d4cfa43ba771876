-- delete_task: removes a task and its schedules; its runs stay.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] name
-- Reply: 1 deleted, 0 there was none
-- Safe to repeat. A new task of the name begins with a later revision, so that it matches nothing planned for this one.
local name = ARGV[2]
local key = P .. 'task:' .. name
local fields = call('HGETALL', key)
if #fields > 0 then
  local revision = tonumber(call('HGET', key, 'revision'))
  if revision > tonumber(call('GET', P .. 'retired') or '0') then call('SET', P .. 'retired', revision) end
end
for i = 1, #fields, 2 do
  local kind, schedule = string.match(fields[i], '^(%l+):(%d+)')
  if kind == 'cursor' then call('ZREM', P .. 'schedules', name .. ' ' .. schedule) end
  if kind == 'chain' then unhook(name, schedule, fields[i + 1]) end
end
call('DEL', key, key .. ':ledger')
call('ZREM', P .. 'tasks', name)
if #fields > 0 then announce('task', name, 'deleted') end
flush()
return #fields > 0 and 1 or 0
