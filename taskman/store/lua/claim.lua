-- claim: queued -> running, for one worker, or queued -> blocked while a permit has no room. Atomic; at most `limit`
-- runs start, best score first over all signatures; paused queues are passed over.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] lease, ms   ARGV[3] worker   ARGV[4] limit   then the signatures it can serve
-- Reply: flat list of id, attempt, failures so far, spec for each run claimed
-- Safe to repeat: a repeated call claims other runs; what an unheard reply had claimed is lost and found by its lease.
local MOST_LOOKED_AT = 2000
local lease_end, worker, limit = text(now + tonumber(ARGV[2])), ARGV[3], tonumber(ARGV[4])
local paused, served = {}, {}
for _, queue in ipairs(call('SMEMBERS', P .. 'paused')) do paused[queue] = true end
for i = 5, #ARGV do
  if not paused[string.match(ARGV[i], '^[^|]*|([^|]*)|')] then table.insert(served, ARGV[i]) end
end

local function heads(count)
  local found = {}
  for _, sig in ipairs(served) do
    local ready = call('ZRANGE', P .. 'ready:' .. sig, 0, count - 1, 'WITHSCORES')
    for j = 1, #ready, 2 do found[#found + 1] = {ready[j], tonumber(ready[j + 1]), sig} end
  end
  table.sort(found, function(a, b) return a[2] < b[2] or (a[2] == b[2] and a[1] < b[1]) end)
  return found
end

local function take(found, count)
  local taken = {}
  for n = 1, count do
    local sig = found[n][3]
    taken[sig] = taken[sig] or {}
    table.insert(taken[sig], found[n][1])
  end
  for sig, ids in pairs(taken) do in_slices('ZREM', P .. 'ready:' .. sig, ids) end
end

local reply, leases, looked = {}, {}, 0

local function start(run, failures, spec)
  run.attempt, run.worker = text(tonumber(run.attempt) + 1), worker
  change(run, 'running', '-', 'worker:' .. worker, 'attempt', run.attempt, 'worker', worker)
  if run.opt ~= '' then
    call('ZREM', P .. 'deadlines', 'start ' .. run.id)
    forget_unique(run, 'pending')
  end
  local n, m = #leases, #reply
  leases[n + 1], leases[n + 2] = lease_end, run.id
  reply[m + 1], reply[m + 2], reply[m + 3], reply[m + 4] = run.id, run.attempt, failures or '0', spec
end

-- A run that is blocked may have been let out for another of its permits: that turn is then somebody else's.
local function consider(id, kept)
  local run, failures, spec = load(id, 'failures', 'spec')
  if not run or run.state ~= 'queued' then return end
  local permit, room = lacking(run)
  if not permit then return start(run, failures, spec) end
  change(run, 'blocked', 'limit', 'worker:' .. worker)
  wait_in_line(run, permit, room, kept)
  pass_on(run)
end

settling()
while #leases / 2 < limit and looked < MOST_LOOKED_AT do
  local wanted = limit - #leases / 2
  local found = heads(wanted)
  if #found == 0 then break end
  local chosen = math.min(wanted, #found)
  take(found, chosen)
  for n = 1, chosen do consider(found[n][1], text(found[n][2])) end
  looked = looked + chosen
end
if looked >= MOST_LOOKED_AT then announce('queue', '-', 'claimed') end -- whoever is called next looks on from there
in_slices('ZADD', P .. 'leases', leases)
flush()
return reply
