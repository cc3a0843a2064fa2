"""What every `Clock` promises (`agenthub_core.ports`), shown on each of them.

A clock of your own runs this too: subclass `ClockContract` and override `clock`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from agenthub_adapters.clock import SystemClock
from agenthub_core import Clock
from agenthub_core.testing import NOON, ManualClock


class ClockContract:
    @pytest.fixture
    def clock(self) -> Clock:
        raise NotImplementedError

    def test_its_times_are_aware_and_in_utc(self, clock: Clock) -> None:
        assert clock.now().tzinfo is UTC
        assert clock.now().utcoffset() == timedelta(0)

    def test_it_does_not_go_back(self, clock: Clock) -> None:
        times = [clock.now() for _ in range(1000)]
        assert all(earlier <= later for earlier, later in pairwise(times))


class TestSystemClock(ClockContract):
    @pytest.fixture
    def clock(self) -> Clock:
        return SystemClock()

    def test_it_says_what_the_machine_says(self, clock: Clock) -> None:
        before = datetime.now(UTC)
        said = clock.now()
        assert before <= said <= datetime.now(UTC)


class TestManualClock(ClockContract):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    def test_it_stands_still_until_it_is_moved(self, clock: ManualClock) -> None:
        assert clock.now() == clock.now() == NOON
        assert clock.advance(timedelta(seconds=5)) == NOON + timedelta(seconds=5)
        assert clock.now() == NOON + timedelta(seconds=5)

    def test_it_cannot_be_turned_back(self, clock: ManualClock) -> None:
        with pytest.raises(ValueError, match="backwards"):
            clock.advance(timedelta(microseconds=-1))
        assert clock.now() == NOON
