-- submit: (none) -> queued; -> scheduled when it is due later; -> skipped when it overlaps and may not. A batch.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] by, percent-encoded
-- then 8 for each run: id, due (epoch ms, 0: at once), signature, priority, task ('' none), options for the scripts
--   (see prelude, '' none), what to look at first, spec (JSON, opaque)
--   What to look at first: '' nothing, else words: idem=digest:body digest   conflict=reject|return
--   overlap=skip|replace   max=number of runs that may wait in the queue
-- Reply: {now, then for each run its outcome and the id it is about}
--   outcome: created, there (the id exists), replayed, mismatch (same key, other body), taken (unique), skipped,
--   full (the queue; nothing is created)
-- Safe to repeat: an id that exists is left alone.
local by, reply = ARGV[2], {now}
local IDEMPOTENT_MS = 86400000

local function word(first, name) return string.match(' ' .. first, ' ' .. name .. '=(%S+)') end

local function queue_of(sig) return string.match(sig, '^[^|]*|([^|]*)|') end

-- How many runs are ready in a queue; signatures are few.
local function depth(queue)
  local count = 0
  for _, sig in ipairs(call('SMEMBERS', P .. 'signatures')) do
    if queue_of(sig) == queue then count = count + call('ZCARD', P .. 'ready:' .. sig) end
  end
  return count
end

-- The outcome that keeps this run from being created, with the id of the run it is about.
local function hindrance(run, first)
  if call('EXISTS', P .. 'run:' .. run.id) == 1 then return 'there', run.id end
  if first == '' then return nil end
  local key, body = string.match(word(first, 'idem') or '', '^(%x+):(%x+)$')
  local known = key and call('GET', P .. 'idem:' .. key)
  if known then
    local id, same = string.match(known, '^(%S+) (%S+)$')
    return same == body and 'replayed' or 'mismatch', id
  end
  local holder = unique_holder(run)
  if holder then return word(first, 'conflict') == 'return' and 'replayed' or 'taken', holder end
  local most = tonumber(word(first, 'max') or '0')
  if most > 0 and depth(queue_of(run.sig)) >= most then return 'full', run.id end
end

local function remember(run, first)
  local key, body = string.match(word(first, 'idem') or '', '^(%x+):(%x+)$')
  if key then call('SET', P .. 'idem:' .. key, run.id .. ' ' .. body, 'PX', IDEMPOTENT_MS) end
end

for i = 3, #ARGV, 8 do
  local due, first = tonumber(ARGV[i + 1]), ARGV[i + 6]
  local run = {id = ARGV[i], state = false, attempt = '0', worker = '', sig = ARGV[i + 2], priority = ARGV[i + 3],
    task = ARGV[i + 4], history = '', opt = ARGV[i + 5]}
  local outcome, about = hindrance(run, first)
  if not outcome then
    outcome, about = 'created', run.id
    create(run, due, ARGV[i + 7], word(first, 'overlap'), by)
    if run.state == 'skipped' then outcome = 'skipped' end
    if first ~= '' then remember(run, first) end
  end
  table.insert(reply, outcome)
  table.insert(reply, about)
end
flush()
return reply
