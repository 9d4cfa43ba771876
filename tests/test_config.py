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


def test_what_is_kept_has_defaults() -> None:
    config = load({}, {})
    assert (config.keep_days, config.keep_runs, config.keep_runs_per_task) == (30, 100_000, 1000)
    assert config.log_limit == 16 * 1024**2
