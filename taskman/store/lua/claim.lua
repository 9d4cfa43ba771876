-- claim: queued -> running, for one worker. Atomic; at most `limit` runs, best score first over all signatures.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] lease, ms   ARGV[3] worker   ARGV[4] limit   then the signatures it can serve
-- Reply: flat list of id, attempt, spec for each run claimed
-- Safe to repeat: a repeated call claims other runs; what an unheard reply had claimed is lost and found by its lease.
local lease_end, worker, limit = text(now + tonumber(ARGV[2])), ARGV[3], tonumber(ARGV[4])
local heads = {}
for i = 5, #ARGV do
  local ready = call('ZRANGE', P .. 'ready:' .. ARGV[i], 0, limit - 1, 'WITHSCORES')
  for j = 1, #ready, 2 do table.insert(heads, {ready[j], tonumber(ready[j + 1]), ARGV[i]}) end
end
table.sort(heads, function(a, b) return a[2] < b[2] or (a[2] == b[2] and a[1] < b[1]) end)
settling()
local reply, leases = {}, {}
for n = 1, math.min(limit, #heads) do
  local id = heads[n][1]
  call('ZREM', P .. 'ready:' .. heads[n][3], id)
  local run = load(id)
  if run and run.state == 'queued' then
    run.attempt, run.worker = text(tonumber(run.attempt) + 1), worker
    change(run, 'running', '-', 'worker:' .. worker, 'attempt', run.attempt, 'worker', worker)
    table.insert(leases, lease_end)
    table.insert(leases, id)
    table.insert(reply, id)
    table.insert(reply, run.attempt)
    table.insert(reply, call('HGET', P .. 'run:' .. id, 'spec'))
  end
end
if #leases > 0 then call('ZADD', P .. 'leases', unpack(leases)) end
flush()
return reply
