-- forget: removes final runs, with their logs and their places in the indexes; changes no state.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] why: age, count or task
-- ARGV[3] for age: epoch ms, and only runs that ended before it go; else the number of final runs that must remain
-- ARGV[4] for task: its name, else ''
-- then candidate run ids, oldest first
-- Reply: number removed; of a task, its own alone
-- A child goes with its parent, and not before it.
-- Safe to repeat and to run on many servers at once: the state of each candidate, its end and the number of those that
--   remain are looked at again here. The ledger of a task and its idempotency keys only name runs, and stay.
local why, bound, task = ARGV[2], tonumber(ARGV[3]), ARGV[4]

local function final_runs()
  if why == 'task' then
    local unfinished = tonumber(call('HGET', P .. 'unfinished', task) or '0')
    return call('ZCARD', P .. 'task:' .. task .. ':runs') - unfinished
  end
  local count = 0
  for state in pairs(FINAL) do count = count + call('ZCARD', P .. 'state:' .. state) end
  return count
end

local function may_go(run)
  if not FINAL[run.state] then return false end
  local parent = option(run, 'pa')
  if parent and call('EXISTS', P .. 'run:' .. parent) == 1 then return false end
  return why ~= 'age' or tonumber(string.match(run.history, '(%d+) [^\n]*\n$')) < bound
end

-- An id in an index that no run belongs to would come back for ever: it goes as well.
local function remove_one(id, run)
  for state in pairs(run and {[run.state] = true} or FINAL) do call('ZREM', P .. 'state:' .. state, id) end
  local of = run and run.task or task
  if of ~= '' then call('ZREM', P .. 'task:' .. of .. ':runs', id) end
  local key = P .. 'run:' .. id
  call('UNLINK', key, key .. ':log', key .. ':blocks')
  call('SREM', P .. 'unpacked', id)
end

local gone = {}

local function remove(id, run)
  local count = 1
  if run then
    each_child(run, function(child)
      remove_one(child.id, child)
      gone[child.id] = true
      count = count + 1
    end)
    if option(run, 'pl') then call('UNLINK', P .. 'run:' .. id .. ':children') end
  end
  remove_one(id, run)
  return why == 'task' and 1 or count
end

local room = why == 'age' and #ARGV or final_runs() - bound
local removed = 0
for i = 5, #ARGV do
  if removed >= room then break end
  local run = load(ARGV[i])
  if not gone[ARGV[i]] and (not run or may_go(run)) then
    removed = removed + remove(ARGV[i], run)
  end
end
return removed
