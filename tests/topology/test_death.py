"""A server dies or stops while everybody is at work: what was acknowledged happens once, and all streams go on."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import httpx2
import pytest
from harness import eventually
from topology.following import Follower, run_of
from topology.site import ENDS, End, Replica, Site
from topology.submitting import Submitter, finished

import taskman


@pytest.mark.parametrize("end", ENDS)
def test_runs_that_are_submitted_through_the_end_of_a_server_all_end_once(site: Site, tmp_path: Path, end: End) -> None:
    mark = tmp_path / "mark"
    submitters = [Submitter(site, f"{tmp_path.name}-{number}", mark) for number in range(4)]
    for one in submitters:
        one.start()
    for one in submitters:
        one.until_more(20)
    end(site.servers[0])
    for one in submitters:
        one.until_more(20)
    site.servers[0].start()
    site.until_all_serve()
    for one in submitters:
        one.finish()
    runs = {key: run for one in submitters for key, run in one.acknowledged.items()}
    assert len(set(runs.values())) == len(runs)
    found = dict(zip(runs, finished(site, runs.values()), strict=True))
    assert {run["state"] for run in found.values()} == {"succeeded"}
    executed = Counter(mark.read_text().split())
    assert set(executed) == set(runs), "no run but the acknowledged ones, and each of them"
    # What ran on the dead server may have ended there before it could say so; a stopped one has nothing to repeat.
    assert all(times <= len(found[key]["attempts"]) for key, times in executed.items())
    if end is Replica.stop:
        assert set(executed.values()) == {1}


@pytest.mark.parametrize("end", ENDS)
def test_an_event_stream_moves_to_the_other_server_and_misses_nothing(site: Site, end: End) -> None:
    follower = Follower(site, "/events")
    follower.start()
    eventually(lambda: follower.servers, "the stream is open")
    first = run_of(site, "true")
    eventually(lambda: _ended(follower, first), "the first run is seen to end")
    carrier = site.server_named(follower.servers[0])
    end(carrier)
    second = run_of(site, "true", requires={"node": _other(site, carrier).label})
    eventually(lambda: _ended(follower, second), "the second run is seen to end, through the other server")
    follower.close()
    assert site.server_named(follower.servers[-1]) is not carrier
    assert [told for told in follower.told if told.event == "reset"] == []
    states = [json.loads(told.data)["state"] for told in follower.told if second in told.data]
    assert states == [state for state in ("queued", "running", "succeeded") if state in states]


@pytest.mark.parametrize("end", ENDS)
def test_a_followed_log_has_no_gap_and_no_repeat_across_the_end_of_its_server(
    site: Site, tmp_path: Path, end: End
) -> None:
    stop = tmp_path / "stop"
    node = site.servers[1]
    command = f"i=0; while [ ! -e {stop} ]; do i=$((i+1)); echo line $i; sleep 0.01; done"
    run = run_of(site, command, requires={"node": node.label})
    followers = _followers_on(site, f"/runs/{run}/log", site.servers[0])
    follower = followers[-1]
    with taskman.Client(site.url, site.admin_token) as sdk:
        lines = sdk.logs(run, follow=True)
        through_sdk = [next(lines).line]
        eventually(lambda: len(follower.told) > 50, "the log flows")
        end(site.servers[0])
        seen = len(follower.told)
        eventually(lambda: len(follower.servers) > 1 and len(follower.told) > seen + 50, "it flows on, from the other")
        stop.touch()
        through_sdk += [line.line for line in lines]
    for one in followers:
        one.join(30)
        numbers = [json.loads(told.data)["line"] for told in one.told if told.event == "line"]
        assert numbers == list(range(1, len(numbers) + 1))
        assert one.told[-1].event == "eof"
    assert site.server_named(follower.servers[-1]) is node
    assert through_sdk == numbers


def test_a_wait_is_taken_over_when_its_server_is_killed(site: Site) -> None:
    run = run_of(site, "true", delay="1h")
    got: list[httpx2.Response] = []

    def wait() -> None:
        with site.client() as http:
            got.append(http.get(f"/runs/{run}", params={"wait": 60}))

    waiters = [threading.Thread(target=wait, daemon=True) for _ in range(4)]
    for one in waiters:
        one.start()
    eventually(lambda: _open(site.servers[0]) and _open(site.servers[1]), "some wait at each of the servers")
    site.servers[0].kill()
    with site.client() as http:
        assert http.post(f"/runs/{run}/cancel").status_code == 202
    for one in waiters:
        one.join(30)
    assert [(reply.status_code, reply.json()["state"]) for reply in got] == [(200, "cancelled")] * 4


def test_what_a_dead_server_was_running_starts_again_when_it_comes_back(site: Site, tmp_path: Path) -> None:
    go = tmp_path / "go"
    command = f'[ "$TASKMAN_ATTEMPT" = 1 ] && sleep 300; touch {go}'
    run = run_of(site, command, requires={"node": site.servers[0].label}, lost_grace="1h")
    with site.client() as http:
        eventually(lambda: http.get(f"/runs/{run}").json()["state"] == "running")
        site.servers[0].kill()
        site.servers[0].start()
        found = http.get(f"/runs/{run}?wait=60").json()
    assert (found["state"], [one["state"] for one in found["attempts"]]) == ("succeeded", ["lost", "succeeded"])
    assert go.exists()


def _ended(follower: Follower, run: str) -> bool:
    return any(run in told.data and json.loads(told.data)["state"] == "succeeded" for told in list(follower.told))


def _other(site: Site, server: Replica) -> Replica:
    return next(one for one in site.servers if one is not server)


def _followers_on(site: Site, path: str, wanted: Replica) -> list[Follower]:
    """Followers of a stream, opened one after the other until the last of them is connected to that server."""
    made: list[Follower] = []
    for _ in range(10):
        follower = Follower(site, path)
        made.append(follower)
        follower.start()
        eventually(lambda follower=follower: follower.servers, "the stream is open")
        if site.server_named(follower.servers[0]) is wanted:
            return made
    raise AssertionError(f"no stream came to {wanted.name}")


def _open(server: Replica) -> int:
    """How many connections are open at the server."""
    host, _, port = server.address.partition(":")
    wanted = "{}:{:04X}".format("".join(f"{int(part):02X}" for part in reversed(host.split("."))), int(port))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1] == wanted and row[3] == "01" for row in rows)
