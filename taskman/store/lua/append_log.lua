-- append_log: adds chunks to the log of an attempt; changes no state.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] run id   ARGV[3] attempt   ARGV[4] worker
-- then 5 for each chunk: seq (from 1), at (epoch ms), stream (out err sys), number of its first line, bytes
-- Reply: the last seq stored, or -1 when the attempt is not the current one of this worker
-- Safe to repeat: explicit ids attempt-seq make Redis itself refuse a duplicate or a step back.
local id, attempt = ARGV[2], ARGV[3]
local f = call('HMGET', P .. 'run:' .. id, 'state', 'attempt', 'worker')
if f[2] ~= attempt or f[3] ~= ARGV[4] or (f[1] ~= 'running' and f[1] ~= 'cancelling') then return -1 end
local key = P .. 'run:' .. id .. ':log'
local last = 0
local newest = call('XREVRANGE', key, attempt .. '-18446744073709551615', attempt .. '-0', 'COUNT', 1)
if newest[1] then last = tonumber(string.match(newest[1][1], '-(%d+)$')) end
for i = 5, #ARGV, 5 do
  local seq = tonumber(ARGV[i])
  if seq > last then
    call('XADD', key, attempt .. '-' .. ARGV[i], 't', ARGV[i + 1], 's', ARGV[i + 2], 'l', ARGV[i + 3], 'b', ARGV[i + 4])
    last = seq
  end
end
call('PUBLISH', key, attempt .. '-' .. text(last))
return last
