"""docker-compose.yml and the image: closed by default, no known secret, nothing that the parts do not share."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from topology.site import ROOT, compose

SERVICES = compose()
SECRETS = ROOT / "deploy" / "make_secrets.py"


def test_only_the_balancer_publishes_ports_and_on_this_machine_only() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"balancer": ["127.0.0.1:3000:3000", "127.0.0.1:8080:8080"]}


def test_no_worker_can_reach_redis() -> None:
    networks = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["networks"]
    assert networks["store"]["internal"] is True
    on_store = {name for name, service in SERVICES.items() if "store" in service.get("networks", ())}
    assert on_store == {"redis", "server"}


def test_two_servers_and_two_workers() -> None:
    assert [SERVICES[name]["deploy"]["replicas"] for name in ("server", "worker")] == [2, 2]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == ("no" if name == "secrets" else "unless-stopped")


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned(name: str) -> None:
    assert re.fullmatch(r"[\w./-]+:(local|\d+\.\d+-alpine)", SERVICES[name]["image"])


def test_no_secret_has_a_value_in_the_file() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"TOKEN$|KEY$|PASSWORD$", variable):
                assert value is None, f"{name}: {variable}"


def test_each_service_waits_for_what_it_needs() -> None:
    waits = {
        (name, other): after["condition"]
        for name, service in SERVICES.items()
        for other, after in service.get("depends_on", {}).items()
    }
    assert waits == {
        ("redis", "secrets"): "service_completed_successfully",
        ("server", "redis"): "service_healthy",
        ("balancer", "server"): "service_healthy",
        ("worker", "balancer"): "service_healthy",
    }


def test_each_service_sees_the_secrets_that_it_needs_and_no_others() -> None:
    seen = {
        name: {volume.partition(":")[0] for volume in service["volumes"] if "-secrets:" in volume}
        for name, service in SERVICES.items()
    }
    assert seen.pop("secrets") == {"redis-secrets", "server-secrets", "worker-secrets"}
    assert seen == {
        "redis": {"redis-secrets"},
        "server": {"server-secrets"},
        "worker": {"worker-secrets"},
        "balancer": set(),
    }
    for name, service in SERVICES.items():
        for volume in service["volumes"]:
            assert volume.endswith(":ro") or name == "secrets" or volume == "redis-data:/data"


def test_every_volume_and_file_that_is_mounted_exists() -> None:
    volumes = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["volumes"]
    for service in SERVICES.values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source in volumes or (source.startswith("./") and (ROOT / source).is_file()), source


@pytest.mark.parametrize("name", ["server", "worker"])
def test_the_commands_are_ones_that_taskman_knows(name: str) -> None:
    command, *options = SERVICES[name]["command"]
    helped = subprocess.run([sys.executable, "-P", "-m", "taskman", command, "--help"], capture_output=True, text=True)
    assert helped.returncode == 0, helped.stderr
    for option in options:
        assert not option.startswith("--") or option in helped.stdout


def test_containers_get_longer_to_stop_than_they_need() -> None:
    drain_s = int(SERVICES["worker"]["command"][-1].removesuffix("s"))
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > drain_s + 10
    assert int(SERVICES["server"]["stop_grace_period"].removesuffix("s")) > 2 + 3 + 5


def make(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script that makes secrets."""
    command = [sys.executable, SECRETS, directory]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"], **environment})


def settings(directory: Path) -> dict[str, str]:
    """The settings that the servers read."""
    return tomllib.loads((directory / "server" / "taskman.toml").read_text())


def test_secrets_differ_between_installations_and_stay_at_every_later_start(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert make(tmp_path / name).returncode == 0
    one, two = settings(tmp_path / "one"), settings(tmp_path / "two")
    assert not set(one.values()) & set(two.values())
    assert len(set(one.values())) == 4
    assert all(len(value) >= 43 for value in one.values())
    assert make(tmp_path / "one").returncode == 0
    assert settings(tmp_path / "one") == one


def test_each_part_gets_its_own_secrets_for_its_eyes_only(tmp_path: Path) -> None:
    done = make(tmp_path)
    known = settings(tmp_path)
    password = known["redis_url"].removeprefix("redis://:").removesuffix("@redis:6379/0")
    assert (tmp_path / "worker" / "token").read_text().strip() == known["worker_token"]
    assert [path.name for path in (tmp_path / "worker").iterdir()] == ["token"]
    assert (tmp_path / "redis" / "redis.conf").read_text() == f'requirepass "{password}"\n'
    assert {path.name for path in (tmp_path / "redis").iterdir()} == {"redis.conf", "password"}
    for path in (*(tmp_path / "server").iterdir(), *(tmp_path / "worker").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o400, path
    assert not [value for value in (*known.values(), password) if value in done.stdout + done.stderr]


def test_a_secret_of_ones_own_takes_the_place_of_the_made_one(tmp_path: Path) -> None:
    make(tmp_path)
    assert make(tmp_path, TASKMAN_REDIS_PASSWORD="my/own:pass@word#%").returncode == 0
    assert settings(tmp_path)["redis_url"] == "redis://:my%2Fown%3Apass%40word%23%25@redis:6379/0"
    assert (tmp_path / "redis" / "password").read_text() == "my/own:pass@word#%\n"


@pytest.mark.parametrize(
    "bad", ["short", 'with a blank and a " in it', "back\\slash-back\\slash", "ümlaut-ümlaut-ümlaut"]
)
def test_a_secret_that_cannot_be_used_is_refused_by_the_name_of_its_variable(tmp_path: Path, bad: str) -> None:
    refused = make(tmp_path, TASKMAN_ADMIN_TOKEN=bad)
    assert refused.returncode == 1
    assert refused.stderr.startswith("TASKMAN_ADMIN_TOKEN must have")
    assert bad not in refused.stderr


def test_the_image_is_made_of_what_the_build_may_see() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for names in re.findall(r"^COPY ([^-].*) \S+$", dockerfile, re.MULTILINE) for name in names.split()}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_runs_as_an_ordinary_user_and_has_no_build_tools() -> None:
    last = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert last.startswith("python:3.13-slim\n")
    assert re.findall(r"^USER (\S+)$", last, re.MULTILINE) == ["taskman"]
    assert re.findall(r"^(?:ENTRYPOINT|VOLUME) .*$", last, re.MULTILINE) == ["VOLUME /data", 'ENTRYPOINT ["taskman"]']
    assert not re.search(r"pip install|apt-get", last)
