"""Scripts with a fault planted in them: if the walks did not notice these, they would not notice real ones."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from taskman.store.scripts import Script

FOLDER = files("taskman.store") / "lua"
SCRIPTS = sorted({entry.name.removesuffix(".lua") for entry in FOLDER.iterdir()} - {"prelude"})


@dataclass(frozen=True, slots=True)
class Mutant:
    """One text of one script replaced by another; `why` says what breaks."""

    script: str
    old: str
    new: str
    why: str

    def occurrences(self) -> int:
        return source(self.script).count(self.old)

    def planted(self) -> dict[str, Script]:
        """The scripts that contain it; all of them for the prelude."""
        changed = source(self.script).replace(self.old, self.new)
        prelude = changed if self.script == "prelude" else source("prelude")
        names = SCRIPTS if self.script == "prelude" else [self.script]
        bodies = {name: source(name) if self.script == "prelude" else changed for name in names}
        return {name: Script.of(name, f"{prelude}\n{body}".encode()) for name, body in bodies.items()}


def source(script: str) -> str:
    return (FOLDER / f"{script}.lua").read_text()


MUTANTS = (
    # Places and indexes
    Mutant("prelude", "move(run.id, from, to)", "", "the state index is left behind"),
    Mutant("prelude", "if moves[id] then moves[id].to = to else moves[id] = {from = from, to = to} end",
           "moves[id] = {from = from, to = to}", "a run that moves twice in a call stays in its first index"),
    Mutant("prelude", "call('ZADD', P .. 'delayed', text(due), run.id)\n    announce", "announce", "never promoted"),
    Mutant("prelude", "    announce('due', text(due))\n", "", "the scheduler sleeps on"),
    Mutant("prelude", "  elseif state == 'queued' then\n    make_ready(run)", "  elseif state == 'queued' then",
           "queued, but not ready"),
    Mutant("prelude", "now - tonumber(priority) * 300000", "now", "priority ignored"),
    Mutant("prelude", "now - tonumber(priority) * 300000", "-tonumber(priority)", "no ageing"),
    Mutant("prelude", "if FINAL[to] then close(run) end", "", "nothing ends with the run"),
    Mutant("prelude", "if group then call('SREM', P .. 'live:' .. group, run.id) end", "",
           "a group stays full for ever"),
    Mutant("prelude", "call('ZREM', P .. 'deadlines', 'start ' .. run.id, 'whole ' .. run.id)", "", "deadlines stay"),
    Mutant("prelude", "call('PUBLISH', P .. 'run:' .. run.id .. ':log', 'end')", "", "log readers never end"),
    Mutant("prelude", "  call('PUBLISH', P .. 'events', id .. '\\n' .. body)\n", "", "nobody hears of events"),
    # Leases, losing and giving back
    Mutant("prelude", "  call('ZREM', P .. 'leases', run.id)\n  if run.suspect", "  if run.suspect", "the lease stays"),
    Mutant("prelude", "if run.suspect then call('HDEL', P .. 'run:' .. run.id, 'suspect') end", "",
           "the next attempt begins as suspect and is lost without a grace"),
    Mutant("prelude", "> max_lost then", ">= max_lost then", "one loss too few"),
    Mutant("prelude", "if run.state == 'running' and call('HINCRBY'", "if call('HINCRBY'",
           "a cancelling run can fail as lost"),
    Mutant("prelude", "if run.state == 'cancelling' then return end_cancelling(run, by) end", "",
           "a cancelled run is executed again"),
    Mutant("prelude", "if run.ending then return change(run, 'failed', run.ending, by, ...) end", "",
           "a deadline reads as a cancellation"),
    Mutant("prelude", "  run.worker = ''\n  change(run, 'queued', reason", "  change(run, 'queued', reason",
           "events name a worker that let go"),
    Mutant("prelude", "change(run, 'queued', reason, by, 'worker', '')", "change(run, 'queued', reason, by)",
           "the old worker can still finish"),
    Mutant("extend", "f[2] == ARGV[i + 1] and ", "", "an old attempt keeps the lease"),
    Mutant("extend", " and f[3] == worker", "", "a stranger keeps the lease"),
    Mutant("extend", "(f[1] == 'running' or f[1] == 'cancelling')", "f[1] == 'running'",
           "cancelling runs lose their lease"),
    Mutant("extend", "'XX', lease_end", "'XX', 'GT', lease_end", "a clock that went back does not heal"),
    Mutant("extend", "      call('HDEL', P .. 'run:' .. ARGV[i], 'suspect')\n", "", "a resumed run stays suspect"),
    Mutant("extend", "      tell(load(ARGV[i]), 'resumed')\n", "", "nobody hears that it resumed"),
    Mutant("extend", "f[1] == 'cancelling' and 'cancel' or 'keep'", "'keep'", "the worker is not told to cancel"),
    Mutant("reclaim", "tonumber(lease_end) <= now", "tonumber(lease_end) < now", "a millisecond late"),
    Mutant("reclaim", "lease_end and tonumber(lease_end) <= now", "lease_end", "a stale candidate loses a healthy run"),
    Mutant("reclaim", "worker ~= '' and run.worker == worker", "worker ~= ''", "other workers' runs are lost with it"),
    Mutant("reclaim", "tonumber(option(run, 'gr') or DEFAULT_GRACE_MS)", "DEFAULT_GRACE_MS",
           "the run's own grace ignored"),
    Mutant("reclaim", "  elseif expired and not run.suspect then\n    suspect(run)\n", "",
           "lost without being suspect"),
    Mutant("reclaim", "  call('HSET', P .. 'run:' .. run.id, 'suspect', 1)\n", "", "suspect for ever, never lost"),
    Mutant("reclaim", "worker == '' and lease_end", "lease_end", "taking one worker's runs back suspects the others"),
    # Finishing
    Mutant("finish", "run.attempt ~= ARGV[i + 1] or ", "", "an old attempt of the same worker finishes the new one"),
    Mutant("finish", " or run.worker ~= worker", "", "a stranger finishes the run"),
    Mutant("finish", "if run.state == 'running' or run.state == 'cancelling' then", "if true then",
           "final is not final"),
    Mutant("finish", "outcome == 'retry' and run.state == 'running'", "outcome == 'retry'",
           "a cancelled run is tried again"),
    Mutant("finish", "  if outcome == 'cancelled' then cancel(run, 'requested', by) end\n", "",
           "an arrow that is none"),
    Mutant("finish", "  unlease(run)\n  local due", "  local due", "a run that waits for its retry keeps its permits"),
    Mutant("finish", "  call('HINCRBY', P .. 'run:' .. run.id, 'failures', 1)\n", "", "retries without end"),
    Mutant("finish", "'result:' .. run.attempt", "'result'", "the result of an earlier attempt is the run's"),
    Mutant("finish", "now + wait_ms", "now", "no back-off"),
    Mutant("finish", "  run.worker = ''\n", "", "events name a worker that let go"),
    Mutant("finish", "change(run, outcome, reason, by, unpack(fields))", "change(run, outcome, reason, by)",
           "results vanish"),
    # The gate
    Mutant("claim", ">= tonumber(room) then", "> tonumber(room) then", "one more than there is room for"),
    Mutant("claim", "  for permit in permits(run) do call('SADD', P .. 'permit:' .. permit, run.id) end\n", "",
           "nobody holds permits"),
    Mutant("claim", "a[2] < b[2] or (a[2] == b[2] and a[1] < b[1])", "a[1] < b[1]", "the wrong ones first"),
    Mutant("claim", "a[2] < b[2] or (a[2] == b[2] and a[1] < b[1])", "a[2] < b[2]", "equals in any order"),
    Mutant("claim", "paused[queue] = true", "paused[queue] = nil", "paused queues are served"),
    Mutant("claim", "while #leases / 2 < limit and looked < MOST_LOOKED_AT do", "for _ = 1, 1 do",
           "blocked runs use up the limit of a claim"),
    Mutant("claim", "    call('ZREM', P .. 'deadlines', 'start ' .. run.id)\n", "",
           "a run expires after its first start"),
    Mutant("claim", "    forget_unique(run, 'pending')\n", "", "a pending key outlives the wait"),
    Mutant("claim", "  pass_on(run)\n", "", "the turn of a run that is blocked again is lost"),
    Mutant("claim", "wait_in_line(run, permit, room, kept)", "wait_in_line(run, permit, room, score(run))",
           "a blocked run goes to the end of the line"),
    Mutant("claim", "text(tonumber(run.attempt) + 1)", "run.attempt", "the fence does not move"),
    Mutant("prelude", "  for permit in pairs(freed) do unblock(permit) end\n", "", "nobody is ever unblocked"),
    Mutant("prelude", "for permit in permits(run) do call('SREM', P .. 'permit:' .. permit, run.id) end", "",
           "permits leak"),
    Mutant("prelude", "tonumber(room) - held", "tonumber(room)", "more wake up than there is room for"),
    Mutant("prelude", "make_ready(run, first[n + 1])", "make_ready(run)", "a blocked run loses its place"),
    Mutant("prelude", "  pass_on(run)\nend\n\nlocal function end_waiting", "end\n\nlocal function end_waiting",
           "a woken run that is cancelled takes its turn with it"),
    Mutant("prelude",
           "  for permit, room in permits(run) do call('ZREM', line(permit, room, run.sig), run.id) end\n", "",
           "a cancelled run waits on"),
    Mutant("prelude", "    if call('EXISTS', key) == 0 then call('SREM', P .. 'waiting:' .. permit, which) end\n", "",
           "empty lines pile up"),
    Mutant("prelude", "  call('SADD', P .. 'waiting:' .. permit, room .. ' ' .. run.sig)\n", "",
           "nobody knows the line"),
    Mutant("prelude", "call('ZPOPMIN', key, free)", "call('ZPOPMIN', key)",
           "one wakes where there is room for several"),
    Mutant("prelude", "local key, free = line", "if sig ~= 'shell|a|' then return end\n    local key, free = line",
           "only one line is looked at"),
    Mutant("adopt", "tonumber(run.attempt) < tonumber(ARGV[i + 1])", "true", "an attempt that was lost comes back"),
    Mutant("adopt", "WAITING[run.state]", "not FINAL[run.state]", "a run is taken from the worker that has it"),
    Mutant("adopt", "    leave_waiting(run)\n", "", "adopted, and claimed by another"),
    Mutant("adopt", "    for permit in permits(run) do call('SADD', P .. 'permit:' .. permit, run.id) end\n", "",
           "an adopted run holds no permits"),
    Mutant("adopt", "      forget_unique(run, 'pending')\n", "", "a pending key outlives the wait"),
    # Overlap, unique and idempotency keys
    Mutant("prelude", ">= capacity(run, group) then", "> capacity(run, group) then", "one overlap too many"),
    Mutant("prelude", "cancel(load(id), 'replaced', by)", "load(id)", "replace replaces nothing"),
    Mutant("prelude", "  if unique_holder(run) then return 'skipped', 'overlap' end\n", "",
           "schedules ignore unique keys"),
    Mutant("prelude", "and call('GET', P .. 'unique:' .. digest) == run.id then", "then",
           "a run frees the key of another"),
    Mutant("prelude", "    forget_unique(run, 'active')\n", "", "an active key outlives its run"),
    Mutant("prelude", "    forget_unique(run, 'pending')\n", "", "a pending key outlives a cancelled run"),
    Mutant("prelude", "if run.opt ~= '' and state ~= 'skipped' then", "if run.opt ~= '' then", "a skipped run is live"),
    Mutant("prelude", "if tonumber(while_) then", "if false then", "a period without end"),
    Mutant("submit", "same == body and 'replayed' or 'mismatch'", "'replayed'",
           "another body under the same key passes"),
    Mutant("submit", "== 'return' and 'replayed' or 'taken'", "and 'taken'", "conflict=return rejects"),
    Mutant("submit", "if call('EXISTS', P .. 'run:' .. run.id) == 1 then return 'there', run.id end", "",
           "a repeated submit starts over"),
    Mutant("submit", ", 'PX', IDEMPOTENT_MS)", ")", "idempotency keys never expire"),
    Mutant("submit", "    if run.state == 'skipped' then outcome = 'skipped' end\n", "", "skipped reads as created"),
    Mutant("submit", "    if first ~= '' then remember(run, first) end\n", "", "idempotency keys are not kept"),
    Mutant("prelude", "holder and (tonumber(while_) or ", "holder and (", "a key dies before its period"),
    Mutant("prelude", "call('EXISTS', P .. 'run:' .. holder) == 1) and", "true) and", "a forgotten run keeps its key"),
    Mutant("forget", "if not FINAL[run.state] then return false end", "", "runs that are not final are forgotten"),
    Mutant("forget", "< bound", "<= bound", "forgotten a millisecond early"),
    Mutant("forget", "  if removed >= room then break end\n", "", "more forgotten than are too many"),
    Mutant("submit", ">= most then", "> most then", "one more than may wait"),
    Mutant("submit", "if queue_of(sig) == queue then", "if true then", "other queues count"),
    # Time
    Mutant("promote", "'-inf', text(now), 'LIMIT'", "'-inf', '(' .. text(now), 'LIMIT'", "a millisecond late"),
    Mutant("promote", "  call('ZREM', P .. 'delayed', id)\n", "", "promoted, and still delayed"),
    Mutant("expire", "due and tonumber(due) <= now", "due", "a stale candidate ends a run before its deadline"),
    Mutant("expire", "    call('ZREM', P .. 'deadlines', ARGV[i])\n", "", "a deadline comes up again and again"),
    Mutant("expire", "WAITING[run.state]", "run.state == 'queued'",
           "blocked and scheduled runs outlive their deadline"),
    Mutant("expire", "kind == 'start' and 'expired' or 'deadline'", "'deadline'", "the wrong reason"),
    Mutant("expire", ", 'ending', 'deadline')", ")", "a deadline ends as cancelled"),
    Mutant("prelude", "text(begin + tonumber(whole))", "text(now + tonumber(whole))",
           "a run for later ends before it is due"),
    # Tasks
    Mutant("fire", "f[1] ~= revision or ", "", "an edited task fires as it was"),
    Mutant("fire", "f[2] ~= '1' or ", "", "a disabled task fires"),
    Mutant("fire", " or f[3] ~= due", "", "an instant fires twice"),
    Mutant("fire", "  if state then return state end\n", "", "a run that exists is made again"),
    Mutant("fire", "...) == 'skipped' and 'skipped' or 'fired'", "'fired'",
           "the ledger says fired of what was skipped"),
    Mutant("fire", "    call('HDEL', key, 'cursor:' .. schedule)\n", "", "a schedule that is over keeps its cursor"),
    Mutant("save_task", "ARGV[3] ~= '' and revision ~= tonumber(ARGV[3])", "false", "lost updates"),
    Mutant("save_task", "    call('HDEL', key, field)\n", "", "a schedule that was taken away fires on"),
    Mutant("save_task", "f[2] or text(now)", "text(now)", "created whenever it is saved"),
    Mutant("delete_task", "if schedule then call('ZREM', P .. 'schedules', name .. ' ' .. schedule) end", "",
           "schedules of deleted tasks stay due"),
    Mutant("delete_task", "call('DEL', key, key .. ':ledger')", "call('DEL', key)", "a new task inherits a ledger"),
    # The rest
    Mutant("cancel", " and run.state == 'cancelling' then tell(run, 'forced')", " then tell(run, 'forced')",
           "runs that do not run are killed"),
    Mutant("cancel", "run.state == before and 0 or 1", "1", "a repeated cancel claims a change"),
    Mutant("pause_queue", "if changed == 1 then", "if true then", "an event of nothing"),
    Mutant("progress", "f[2] == ARGV[i + 1] and ", "", "an old attempt says how far the new one is"),
    Mutant("progress", " and f[3] == worker", "", "a stranger says how far a run is"),
    Mutant("progress", " and (f[1] == 'running' or f[1] == 'cancelling')", "", "progress after the end"),
    Mutant("progress", "    call('PUBLISH', run .. ':progress', ARGV[i + 1])\n", "", "nobody sees the bar move"),
    Mutant("append_log", "f[2] ~= attempt or ", "", "an old attempt writes to the log"),
    Mutant("append_log", " or f[3] ~= ARGV[4]", "", "a stranger writes to the log"),
    Mutant("append_log", " or (f[1] ~= 'running' and f[1] ~= 'cancelling')", "", "a log grows after the end"),
    Mutant("append_log", "call('PUBLISH', key, attempt .. '-' .. text(last))", "", "log readers hear nothing"),
)  # fmt: skip
