"""Every key, its type and what is in it. All keys of a shard begin with its prefix, which carries the hash tag.

The scripts build the same names from the prefix; a test compares them with PATTERNS.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PATTERNS", "Keys"]

PATTERNS: dict[str, str] = {
    "run:<id>": "hash: spec, state, sig, opt, priority, due, attempt, worker, history, task, result, error, failures,"
    " lost, suspect, ending, result:<attempt>, progress, log, cut:<attempt>, left",
    "run:<id>:log": "stream: chunks of the log, ids attempt-seq; also the channel that tells of new ones",
    "run:<id>:progress": "no key: the channel that tells of new progress",
    "run:<id>:blocks": "stream: the log once compacted, compressed; ids are those of the last chunk of each block",
    "run:<id>:children": "zset, scores 0: ids of the runs that a placed run has become, one for each worker",
    "placed": "set: placed runs that have become their children, and have not ended with the last of them",
    "unpacked": "set: final runs whose logs are to be compacted",
    "state:<state>": "zset, scores 0: ids of the runs in that state, in the order of their ids, so of time",
    "ready:<signature>": "zset: queued runs by enqueue time less priority",
    "signatures": "set: every signature that a run has had",
    "delayed": "zset: scheduled runs by due time, epoch ms",
    "leases": "zset: running and cancelling runs by the end of their lease, epoch ms",
    "deadlines": "zset: 'start <id>' and 'whole <id>' by deadline, epoch ms",
    "permit:<name>": "set: the runs that hold the permit",
    "waiting:<permit>": "set: '<room> <signature>' of each line of blocked runs",
    "waiting:<permit> <room> <signature>": "zset: the runs in that line, by the score that they had in the ready set",
    "live:<group>": "set: the runs of a group that are not final",
    "idem:<digest>": "string with expiry: the run that an Idempotency-Key made, and the digest of its body",
    "notice:<id>": "string with expiry: a server has taken it on to tell plugins that the run is over",
    "unique:<digest>": "string: the run that holds a unique key",
    "paused": "set: names of paused queues",
    "workers": "hash: what each worker says of itself, and when it said so",
    "owners": "hash: whose token each worker has connected with",
    "types": "hash: a task type that somebody has, to when it was described (epoch ms) and its description (JSON)",
    "draining": "set: workers that are to take nothing new",
    "schedules": "zset: '<task> <schedule>' by next due instant, epoch ms",
    "tasks": "zset, scores 0: names of the tasks",
    "task:<name>": "hash: definition, revision, enabled, created, updated; of a schedule cursor:<schedule>,"
    " skips:<schedule>, fired:<schedule>, chain:<schedule>, met:<schedule>:<task>, last:<schedule>",
    "downstream:<task>": "hash: '<task> <schedule>' of each schedule that waits for its runs to end, and how",
    "retired": "string: the highest revision that a deleted task had; new tasks begin after it",
    "task:<name>:runs": "zset, scores 0: ids of the task's runs",
    "unfinished": "hash: how many runs of each task are not final",
    "task:<name>:ledger": "zset: outcome of each due instant, by that instant",
    "events": "stream, about 10,000 entries: lines of events; also the channel that carries them",
    "session:<digest>": "string with expiry: who is signed in, with which scope, by which token",
    "tokens": "hash: each API token by its id: digest, name, scope, who made it and when, when it expires",
    "token-uses": "hash: when each token was last used, epoch ms, to the minute",
    "link:<digest>": "string with expiry: a sign-in link that works once",
    "meta": "hash: version of this layout, number of shards",
}


@dataclass(frozen=True, slots=True)
class Keys:
    """The key names of one shard."""

    shard: int = 0

    @property
    def prefix(self) -> str:
        return f"tm:{{{self.shard}}}:"

    @property
    def events(self) -> str:
        return self.prefix + "events"

    @property
    def signatures(self) -> str:
        return self.prefix + "signatures"

    @property
    def leases(self) -> str:
        return self.prefix + "leases"

    @property
    def schedules(self) -> str:
        return self.prefix + "schedules"

    @property
    def tasks(self) -> str:
        return self.prefix + "tasks"

    @property
    def meta(self) -> str:
        return self.prefix + "meta"

    @property
    def deadlines(self) -> str:
        return self.prefix + "deadlines"

    @property
    def workers(self) -> str:
        return self.prefix + "workers"

    @property
    def tokens(self) -> str:
        return self.prefix + "tokens"

    @property
    def token_uses(self) -> str:
        return self.prefix + "token-uses"

    @property
    def types(self) -> str:
        return self.prefix + "types"

    @property
    def draining(self) -> str:
        return self.prefix + "draining"

    @property
    def paused(self) -> str:
        return self.prefix + "paused"

    def ready(self, signature: str) -> str:
        return f"{self.prefix}ready:{signature}"

    @property
    def placed(self) -> str:
        return self.prefix + "placed"

    @property
    def unpacked(self) -> str:
        return self.prefix + "unpacked"

    @property
    def unfinished(self) -> str:
        return self.prefix + "unfinished"

    def permit(self, name: str) -> str:
        return f"{self.prefix}permit:{name}"

    def run(self, run_id: str) -> str:
        return f"{self.prefix}run:{run_id}"

    def log(self, run_id: str) -> str:
        return f"{self.prefix}run:{run_id}:log"

    def progress(self, run_id: str) -> str:
        return f"{self.prefix}run:{run_id}:progress"

    def blocks(self, run_id: str) -> str:
        return f"{self.prefix}run:{run_id}:blocks"

    def notice(self, run_id: str) -> str:
        return f"{self.prefix}notice:{run_id}"

    def children(self, run_id: str) -> str:
        return f"{self.prefix}run:{run_id}:children"

    def state(self, state: str) -> str:
        return f"{self.prefix}state:{state}"

    def task(self, name: str) -> str:
        return f"{self.prefix}task:{name}"

    def task_runs(self, name: str) -> str:
        return f"{self.prefix}task:{name}:runs"

    def ledger(self, name: str) -> str:
        return f"{self.prefix}task:{name}:ledger"

    def session(self, digest: str) -> str:
        return f"{self.prefix}session:{digest}"

    def link(self, digest: str) -> str:
        return f"{self.prefix}link:{digest}"
