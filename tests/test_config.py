"""Settings as people write them."""

from __future__ import annotations

import pytest

from taskman.config import load
from taskman.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "size"), [("64KiB", 65_536), ("65536", 65_536), ("16MiB", 16 * 1024**2), ("256MiB", 256 * 1024**2)]
)
def test_the_log_limit_is_a_number_of_bytes_with_or_without_a_unit(text: str, size: int) -> None:
    assert load({}, {"TASKMAN_LOG_LIMIT": text}).log_limit == size


@pytest.mark.parametrize("text", ["63KiB", "257MiB", "1GiB", "0", "-1", "16MB", "much", "MiB", "1.5MiB"])
def test_any_other_log_limit_is_refused_with_what_it_takes(text: str) -> None:
    with pytest.raises(ConfigError, match=r"TASKMAN_LOG_LIMIT .*64KiB to 256MiB"):
        load({}, {"TASKMAN_LOG_LIMIT": text})


@pytest.mark.parametrize("text", ["myapp.tasks", "a:b,c", "a:b:c"])
def test_a_pattern_of_callables_without_a_function_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"TASKMAN_ALLOW_CALLABLES .*does not read module:function"):
        load({}, {"TASKMAN_ALLOW_CALLABLES": text})


def test_what_plugins_read_is_told_wherever_it_was_set() -> None:
    config = load({"allow_callables": "a:*,b.c:d"}, {"TASKMAN_ALLOW_CALLABLES": "x:*"})
    assert config.for_plugins()["TASKMAN_ALLOW_CALLABLES"] == "a:*,b.c:d"


def test_what_is_kept_has_defaults() -> None:
    config = load({}, {})
    assert (config.keep_days, config.keep_runs, config.keep_runs_per_task) == (30, 100_000, 1000)
    assert config.log_limit == 16 * 1024**2


def test_places_are_networks_and_hosts() -> None:
    config = load({}, {"TASKMAN_HTTP_ALLOW": "10.0.0.0/8, *.example.com, [::1], private", "TASKMAN_HTTP_DENY": "all"})
    assert config.http_allow == ("10.0.0.0/8", "*.example.com", "[::1]", "private")
    assert config.for_plugins()["TASKMAN_HTTP_ALLOW"] == "10.0.0.0/8,*.example.com,[::1],private"


@pytest.mark.parametrize("place", ["10.0.0.0/33", "1.2.3", "::x", "a b", "http://host", "*.", "*example.com"])
def test_what_is_no_place_is_refused(place: str) -> None:
    with pytest.raises(ConfigError, match=r"TASKMAN_HTTP_DENY .*cannot be"):
        load({}, {"TASKMAN_HTTP_DENY": place})


def test_plugins_get_their_settings_wherever_they_came_from() -> None:
    given = load({"http_deny": "private"}, {"TASKMAN_REDIS_URL": "redis://localhost", "TASKMAN_ADMIN_TOKEN": "t"})
    assert given.for_plugins() == {"TASKMAN_HTTP_DENY": "private", "TASKMAN_REDIS_URL": "redis://localhost"}
