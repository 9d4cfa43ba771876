"""The meter: the newest report wins, few are sent, the last one always is."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
import trio.testing

from taskman.model.progress import Progress
from taskman.runtime.meter import LAST_S, PACE_S, REPEAT_S, ProgressMeter


class Heard:
    """What has been sent, and when."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.reports: list[tuple[float, Progress]] = []
        self.deaf = False
        self.senders = 0
        self._nursery = nursery
        self.meter = ProgressMeter(self._send, self._start)

    def _start(self) -> None:
        self.senders += 1
        self._nursery.start_soon(self.meter.run)

    async def _send(self, progress: Progress) -> bool:
        await trio.lowlevel.checkpoint()
        if not self.deaf:
            self.reports.append((trio.current_time(), progress))
        return not self.deaf

    @property
    def done(self) -> list[float]:
        return [progress.done for _, progress in self.reports]


@pytest.fixture
def heard(nursery: trio.Nursery) -> Heard:
    return Heard(nursery)


async def test_of_many_reports_few_are_sent_and_the_last_is_among_them(
    heard: Heard, autojump_clock: trio.testing.MockClock
) -> None:
    for number in range(1000):
        heard.meter.report(Progress(number, 1000))
        await trio.sleep(0.001)
    await heard.meter.finish()
    assert len(heard.reports) <= 2 + 1 / PACE_S
    assert heard.done[0] == 0
    assert heard.done[-1] == 999
    times = [at for at, _ in heard.reports[:-1]]
    assert all(later - earlier >= PACE_S for earlier, later in pairwise(times))


async def test_the_first_report_goes_at_once(heard: Heard, autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    heard.meter.report(Progress(1))
    await trio.testing.wait_all_tasks_blocked()
    assert [at for at, _ in heard.reports] == [began]


async def test_nothing_is_under_way_while_nothing_is_reported(
    heard: Heard, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    heard.meter.report(Progress(1))
    await trio.sleep(2 * PACE_S)
    assert not nursery.child_tasks
    heard.meter.report(Progress(2))
    await heard.meter.finish()
    assert (heard.done, heard.senders) == ([1, 2], 2)


async def test_what_could_not_be_sent_is_sent_again_unless_something_newer_came(
    heard: Heard, autojump_clock: trio.testing.MockClock
) -> None:
    heard.deaf = True
    heard.meter.report(Progress(1))
    await trio.sleep(PACE_S)
    heard.deaf = False
    await trio.sleep(REPEAT_S)
    heard.deaf = True
    heard.meter.report(Progress(2))
    await trio.sleep(PACE_S)
    heard.meter.report(Progress(3))
    heard.deaf = False
    await trio.sleep(REPEAT_S)
    assert heard.done == [1, 3]


async def test_the_end_waits_for_a_store_that_does_not_answer_no_longer_than_it_must(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def send(progress: Progress) -> bool:
        await trio.sleep_forever()
        return True

    meter = ProgressMeter(send, lambda: nursery.start_soon(meter.run))
    meter.report(Progress(1))
    began = trio.current_time()
    await meter.finish()
    assert trio.current_time() - began == pytest.approx(LAST_S)
    nursery.cancel_scope.cancel()
