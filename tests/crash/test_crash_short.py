"""Real processes are killed and stopped under load; in the end every invariant holds. The short form, for CI."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from crash.checker import misplaced
from crash.evidence import PREFIX
from crash.faults import SHORT_S, Faults, signal_to
from crash.scene import Scene
from harness import eventually
from runtime.trees import listens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.mark.parametrize("fault", ["kill_server", "kill_server_with_its_tree"])
def test_a_killed_server_loses_and_doubles_nothing(scene: Scene, fault: str) -> None:
    scene.start_server()
    scene.start_load()
    for _ in range(2):
        scene.acknowledged(40)
        Faults(scene, random.Random(1)).all[fault]()
        assert misplaced(scene.snapshot()) == []
    scene.acknowledged(10)
    scene.check()


def test_a_killed_server_goes_on_with_what_its_shims_still_hold(scene: Scene) -> None:
    scene.start_server()
    scene.start_load()
    lasting = [scene.submit(kind) for kind in ("beating", "stubborn")]
    for _ in range(3):
        for run_id in lasting:
            shim = scene.process_of(run_id).parent
            eventually(lambda shim=shim: listens(shim), "it is held")
        Faults(scene, random.Random(1)).kill_server()
        scene.acknowledged(10)
    scene.have_enough()
    evidence = scene.check()
    for run_id in lasting:
        assert [one["state"] for one in evidence.runs[run_id]["attempts"]] == ["succeeded"]


def test_killing_shims_and_children_concerns_their_runs_only(scene: Scene) -> None:
    scene.start_server()
    scene.start_load()
    children = {scene.submit("lasting") for _ in range(2)}
    shims = {scene.submit("lasting") for _ in range(2)}
    scene.killed |= children
    for run_id in children:
        os.kill(scene.process_of(run_id).pid, signal.SIGKILL)
    for run_id in shims:
        os.kill(scene.process_of(run_id).parent, signal.SIGKILL)
    scene.acknowledged(20)
    evidence = scene.check()
    assert {evidence.runs[one]["reason"] for one in children} == {"signal"}
    assert {evidence.runs[one]["attempts"][0]["state"] for one in shims} == {"lost"}


@pytest.mark.parametrize("fault", ["kill_redis", "restart_redis"])
def test_redis_may_go_away_and_come_back_under_load(scene: Scene, fault: str) -> None:
    scene.start_redis()
    scene.start_server()
    load = scene.start_load()
    for _ in range(3):
        scene.acknowledged(30)
        Faults(scene, random.Random(1)).all[fault]()
        assert misplaced(scene.snapshot()) == []
    scene.acknowledged(10)
    scene.check()
    assert load.impatient == []


def test_a_server_that_stands_still_for_a_while_keeps_its_runs(scene: Scene) -> None:
    scene.start_server()
    scene.start_load()
    scene.acknowledged(40)
    Faults(scene, random.Random(1)).stop_server()
    scene.acknowledged(20)
    evidence = scene.check()
    states = {attempt["state"] for run in evidence.runs.values() for attempt in run["attempts"]}
    assert states <= {"succeeded", "failed"}


def test_a_server_that_stood_still_for_too_long_changes_nothing_afterwards(scene: Scene) -> None:
    scene.start_redis()
    servers = [scene.start_server(), scene.start_server()]
    scene.start_load()
    lasting = [scene.submit(kind) for kind in ("beating", "stubborn") * 3]
    for run_id in lasting:
        scene.process_of(run_id)
    stopped = max(servers, key=lambda one: sum((run_id, 1) in scene.held_by(one) for run_id in lasting))
    signal_to(stopped, signal.SIGSTOP)
    held = {*scene.held_by(stopped)}
    assert len(taken := [run_id for run_id in lasting if (run_id, 1) in held]) >= 3
    eventually(lambda: not held & {*scene.held_by(stopped)}, "another server takes over", 60)
    assert not held & {*scene.executions()}
    time.sleep(SHORT_S)
    signal_to(stopped, signal.SIGCONT)
    scene.acknowledged(20)
    scene.have_enough()
    evidence = scene.check()
    for run_id in lasting:
        states = [one["state"] for one in evidence.runs[run_id]["attempts"]]
        assert states == (["lost", "succeeded"] if run_id in taken else ["succeeded"])


def test_what_a_killed_server_held_is_executed_by_another(scene: Scene) -> None:
    scene.start_redis()
    servers = [scene.start_server(), scene.start_server()]
    scene.start_load()
    scene.acknowledged(20)
    run_id = scene.submit("lasting")
    scene.process_of(run_id)
    next(one for one in servers if (run_id, 1) in scene.held_by(one)).kill_tree()
    scene.acknowledged(20)
    evidence = scene.check()
    assert [one["state"] for one in evidence.runs[run_id]["attempts"]] == ["lost", "succeeded"]


def test_scripts_and_connections_may_be_taken_away_under_load(scene: Scene) -> None:
    scene.start_redis()
    scene.start_server()
    load = scene.start_load()
    faults = Faults(scene, random.Random(1))
    for _ in range(3):
        scene.acknowledged(10)
        faults.flush_scripts()
        scene.acknowledged(10)
        faults.drop_connections()
    scene.acknowledged(10)
    scene.check()
    assert load.impatient == []


def test_a_full_redis_refuses_submissions_only_and_recovers_by_itself(scene: Scene) -> None:
    scene.start_redis()
    server = scene.start_server()
    load = scene.start_load()
    scene.acknowledged(40)
    with Faults(scene, random.Random(1)).full_redis(), scene.connection() as redis:
        eventually(lambda: load.refusals["503"] >= 3, "submissions are refused")
        eventually(lambda: not redis.zcard(f"{PREFIX}leases"), "all that ran, and all that waited, ends")
        before = len(load.acknowledged)
        assert redis.zcard(f"{PREFIX}state:queued") == 0
        server.kill_tree()
        server.start()
        time.sleep(SHORT_S)
        assert len(load.acknowledged) == before
    scene.acknowledged(20)
    scene.check()
    assert load.impatient == []
