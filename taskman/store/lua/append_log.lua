-- append_log: adds chunks to the log of an attempt; cuts the middle out of a log beyond its limit; changes no state.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] run id   ARGV[3] attempt   ARGV[4] worker   ARGV[5] limit of the run's log, bytes
-- then 5 for each chunk: seq (from 1), at (epoch ms), stream (out err sys), number of its first line, bytes
-- Reply: the last seq stored, or -1 when the attempt is not the current one of this worker
-- Safe to repeat: explicit ids attempt-seq make Redis itself refuse a duplicate or a step back.
-- Of a run, the first quarter of the limit and what came last stay. Each entry knows its offset in its attempt, so a
-- reader sees from any two neighbours what is missing between them. While the run is not final its field `log` has the
-- weight of the log, and, once the first quarter is full, the id where that ends.
local LIGHTEST = 64 -- what an entry costs beside its bytes, about: a chunk of a few bytes must not count as nothing
local attempt, limit = ARGV[3], tonumber(ARGV[5])
local run, key = P .. 'run:' .. ARGV[2], P .. 'run:' .. ARGV[2] .. ':log'
local f = call('HMGET', run, 'state', 'attempt', 'worker', 'log')
if f[2] ~= attempt or f[3] ~= ARGV[4] or (f[1] ~= 'running' and f[1] ~= 'cancelling') then return -1 end
local weight, head_end = string.match(f[4] or '0', '^(%d+) ?(.*)$')
local top, last, offset = '0-0', 0, 0
weight = tonumber(weight)
local newest = call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
if newest then
  top = newest[1]
  local of, seq = string.match(top, '^(%d+)-(%d+)$')
  if of == attempt then last, offset = tonumber(seq), tonumber(newest[2][8]) + #newest[2][10] end
end

local function add(seq, at, stream, line, bytes)
  local more = math.max(LIGHTEST, #bytes)
  if head_end == '' and weight + more > limit / 4 then head_end = top end
  top = attempt .. '-' .. seq
  call('XADD', key, top, 't', at, 's', stream, 'l', line, 'o', text(offset), 'b', bytes)
  weight, offset, last = weight + more, offset + #bytes, tonumber(seq)
end

-- When the end of an earlier attempt goes, what remains of it cannot tell how long it was: `cut:` and its number does,
-- by the offset and the number of the line behind its last chunk, and when that came.
local function note_ends(ends)
  for of, entry in pairs(ends) do
    local at, line, start, bytes = entry[2][2], entry[2][6], entry[2][8], entry[2][10]
    local _, lines = string.gsub(bytes, '\n', '')
    if string.sub(bytes, -1) ~= '\n' then lines = lines + 1 end
    call('HSET', run, 'cut:' .. of, text(start + #bytes) .. ' ' .. text(line + lines) .. ' ' .. at)
  end
end

-- As much goes as came, so one call never has much to remove; what came last stays, it keeps the count of chunks.
local function cut()
  local count, gone, ends = 16, nil, {}
  while weight > limit do
    gone = {}
    for _, entry in ipairs(call('XRANGE', key, '(' .. head_end, '+', 'COUNT', count)) do
      if weight <= limit or entry[1] == top then break end
      weight = weight - math.max(LIGHTEST, #entry[2][10])
      table.insert(gone, entry[1])
      local of = string.match(entry[1], '^%d+')
      if of ~= attempt then ends[of] = entry end
    end
    if #gone == 0 then break end
    call('XDEL', key, unpack(gone))
    count = math.min(2 * count, 256)
  end
  note_ends(ends)
end

for i = 6, #ARGV, 5 do
  if tonumber(ARGV[i]) > last then add(unpack(ARGV, i, i + 4)) end
end
cut()
call('HSET', run, 'log', head_end == '' and text(weight) or text(weight) .. ' ' .. head_end)
call('PUBLISH', key, attempt .. '-' .. text(last))
return last
