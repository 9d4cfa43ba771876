-- cancel: scheduled, blocked, queued -> cancelled at once; running -> cancelling until the worker has ended it. The same
-- happens to the children of a placed run, which is cancelled with the last of them.
-- KEYS[1] shard prefix
-- ARGV[1] now, epoch ms   ARGV[2] run id   ARGV[3] by, percent-encoded   ARGV[4] 1: tell the worker to kill it
-- Reply: {1 when something changed else 0, the state afterwards}; {0, ''} when there is no such run
-- Safe to repeat: cancelling and final runs stay as they are.
local run = load(ARGV[2])
if not run then return {0, ''} end
settling()
local before = run.state
cancel(run, 'requested', ARGV[3])
local function force(one)
  if one.state ~= 'cancelling' then return end
  tell(one, 'forced')
  each_child(one, force)
end
if ARGV[4] == '1' then force(run) end
flush()
if run.opt ~= '' and option(run, 'pl') then run = load(run.id) end
return {run.state == before and 0 or 1, run.state}
