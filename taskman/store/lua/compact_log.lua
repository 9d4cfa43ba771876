-- compact_log: puts compressed blocks in the place of a final run's log; changes no state.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] run id   ARGV[3] how many entries were read   ARGV[4] the id of the last one
-- then 2 for each block: its id, which is that of the last chunk in it, and its bytes (opaque)
-- Reply: 1 replaced; 0 when there is no such run, it is not final, or its log is not what was read
-- Safe to repeat and to run on many servers at once: the log that was read is there only for the first of them.
local id = ARGV[2]
local key, blocks = P .. 'run:' .. id .. ':log', P .. 'run:' .. id .. ':blocks'
if not FINAL[call('HGET', P .. 'run:' .. id, 'state')] or call('XLEN', key) == 0 then
  call('SREM', P .. 'unpacked', id)
  return 0
end
local newest = call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
if call('XLEN', key) ~= tonumber(ARGV[3]) or newest[1] ~= ARGV[4] then return 0 end
for i = 5, #ARGV, 2 do call('XADD', blocks, ARGV[i], 'z', ARGV[i + 1]) end
call('UNLINK', key)
call('SREM', P .. 'unpacked', id)
return 1
