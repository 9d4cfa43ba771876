"""Real work: a directory tree packed and listed with checksums, by hand and on a schedule, and its log compared."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest
from harness import Server, eventually

TREE = Path(sysconfig.get_path("stdlib")) / "encodings"
MANY = Path(sysconfig.get_path("purelib"))  # the libraries that the tests are installed beside: thousands of files


def command(archive: Path) -> str:
    listing = "find . -name '*.py' -type f | LC_ALL=C sort | xargs sha256sum"
    return f"set -e; cd {MANY}; tar -cf {archive} -C {TREE} .; {listing}"


@pytest.fixture
def task(tmp_path: Path) -> dict[str, object]:
    return {
        "name": "pack",
        "type": "shell",
        "params": {"command": command(tmp_path / "tree.tar")},
        "schedules": [{"cron": "*/4 * * * * *"}, {"cron": "* * * * *"}],
    }


@pytest.mark.slow
def test_the_log_of_real_work_is_the_commands_own_output(
    server: Server, task: dict[str, object], tmp_path: Path
) -> None:
    expected = subprocess.run(["sh", "-c", command(tmp_path / "own.tar")], capture_output=True, check=True).stdout
    assert expected.count(b"\n") > 1000
    definition = tmp_path / "pack.json"
    definition.write_text(json.dumps(task))
    created = server.command("tasks", "create", "-f", str(definition))
    assert created.returncode == 0, created.stderr
    by_hand = server.command("run", "pack")
    assert (by_hand.returncode, by_hand.stdout.encode()) == (0, expected)
    assert (tmp_path / "tree.tar").stat().st_size > 100_000
    with server.client() as api:

        def fired() -> list[str] | None:
            reply = api.get("/runs", params={"task": "pack", "state": "succeeded"}).json()["items"]
            found = [item["id"] for item in reply if item["trigger"] == "schedule"]
            return found if len(found) >= 2 else None

        for run_id in eventually(fired, "the schedule fires twice", 30):
            assert api.get(f"/runs/{run_id}/log").content == expected
            reply = api.get(f"/runs/{run_id}/log", headers={"Accept": "application/x-ndjson"})
            lines = [json.loads(line) for line in reply.content.splitlines()]
            assert [line["line"] for line in lines] == list(range(1, len(lines) + 1))
            assert "".join(line["text"] + "\n" for line in lines).encode() == expected
            assert server.command("logs", run_id).stdout.encode() == expected
