"""Redis' clock between two readings: never ahead, and as close behind as the best reading allows."""

from __future__ import annotations

import math
import random

import pytest
import trio
import trio.testing

from taskman.runtime.store_clock import StoreClock

START = 1_800_000_000.0


class Redis:
    """A clock that differs from Trio's by what the test says."""

    def __init__(self) -> None:
        self.ahead_s = START

    def now(self) -> float:
        return trio.current_time() + self.ahead_s

    async def answer(self, clock: StoreClock, before_s: float, after_s: float) -> None:
        """Be asked, which takes a while on the way there, and a while on the way back."""
        asked_at = trio.current_time()
        await trio.sleep(before_s)
        told = math.floor(self.now() * 1000)
        await trio.sleep(after_s)
        clock.read(told, asked_at)

    def behind_s(self, clock: StoreClock) -> float:
        """How far the clock is behind; negative when it is ahead."""
        at_ms = math.floor(START * 1000)
        return round(self.now() - at_ms / 1000 - clock.late_s(at_ms), 5)


async def test_it_is_as_good_as_its_quickest_answer(autojump_clock: trio.testing.MockClock) -> None:
    clock, redis = StoreClock(), Redis()
    await redis.answer(clock, 0.0, 0.1)
    assert 0.1 <= redis.behind_s(clock) < 0.102
    await redis.answer(clock, 0.2, 0.003)
    assert 0.003 <= redis.behind_s(clock) < 0.005
    await redis.answer(clock, 0.0, 5.0)
    assert 0.003 <= redis.behind_s(clock) < 0.010


async def test_it_is_never_ahead_of_clocks_that_drift(autojump_clock: trio.testing.MockClock) -> None:
    clock, redis, chance = StoreClock(), Redis(), random.Random(7)
    for _ in range(500):
        await redis.answer(clock, chance.random() / 10, chance.random() / 10)
        await trio.sleep(chance.random())
        redis.ahead_s -= 0.0001  # slower than Trio's, within what the system allows
        assert -0.0002 <= redis.behind_s(clock) < 0.11


@pytest.mark.parametrize("step_s", [3600.0, -3600.0, 0.5, -0.5])
async def test_it_follows_a_clock_that_was_set(autojump_clock: trio.testing.MockClock, step_s: float) -> None:
    clock, redis = StoreClock(), Redis()
    await redis.answer(clock, 0.001, 0.001)
    redis.ahead_s += step_s
    await redis.answer(clock, 0.01, 0.02)
    assert 0.02 <= redis.behind_s(clock) < 0.022


async def test_it_tells_what_will_be_in_a_while(autojump_clock: trio.testing.MockClock) -> None:
    clock, redis = StoreClock(), Redis()
    await redis.answer(clock, 0.0, 0.0)
    assert clock.ms_in(2.5) - math.floor(redis.now() * 1000) in (2498, 2499, 2500)
    assert clock.late_s(clock.ms_in(60)) == pytest.approx(-60, abs=0.002)
