"""When to try again, and which numbers make no policy."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenthub_core import Backoff, InvalidValue, Policy

QUICK_THEN_SLOW = [0.2, 0.4, 0.8, 10, 20, 40, 60, 60]


@pytest.mark.parametrize(("failures", "whole"), [*enumerate(QUICK_THEN_SLOW, start=1)])
def test_retries_are_quick_then_ever_slower_up_to_the_ceiling(failures: int, whole: float) -> None:
    delay = Backoff().delay(failures, "bob").total_seconds()
    assert whole * 0.75 - 1e-6 <= delay <= whole


@pytest.mark.parametrize(("failures", "exhausted"), [(1, False), (3, False), (4, True), (9, True)])
def test_the_quick_retries_come_after_the_first_attempt(failures: int, exhausted: bool) -> None:
    assert Backoff(quick=3).exhausted(failures) is exhausted


def test_without_quick_retries_the_first_is_slow() -> None:
    delay = Backoff(quick=0, slow=timedelta(seconds=10)).delay(1, "bob")
    assert timedelta(seconds=7.5) <= delay <= timedelta(seconds=10)


@given(failures=st.integers(1, 10**6), seed=st.text())
def test_a_delay_is_within_a_quarter_below_the_ceiling_in_the_long_run(
    failures: int, seed: str
) -> None:
    backoff = Backoff()
    delay = backoff.delay(failures, seed)
    assert timedelta(0) < delay <= backoff.ceiling
    if failures > len(QUICK_THEN_SLOW):
        assert delay >= backoff.ceiling * 0.75


def test_neighbours_that_failed_together_come_back_apart_and_the_same_way_each_time() -> None:
    delays = [Backoff().delay(5, f"agent{number}") for number in range(20)]
    assert len(set(delays)) == 20
    assert delays == [Backoff().delay(5, f"agent{number}") for number in range(20)]


@pytest.mark.parametrize(
    ("policy", "field", "value"),
    [
        (Policy, "message_ttl", timedelta(0)),
        (Policy, "agent_stale", timedelta(seconds=-1)),
        (Policy, "session_poll", timedelta(0)),
        (Policy, "listing_overlap", timedelta(0)),
        (Policy, "relay_probe", timedelta(0)),
        (Policy, "busy_wait", timedelta(0)),
        (Policy, "turn_check", timedelta(0)),
        (Policy, "settle_retry", timedelta(0)),
        (Policy, "workers", 0),
        (Backoff, "quick", -1),
        (Backoff, "first", timedelta(0)),
        (Backoff, "slow", timedelta(0)),
        (Backoff, "ceiling", timedelta(0)),
    ],
)
def test_a_policy_that_could_not_work_is_not_made(policy: Any, field: str, value: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        policy(**{field: value})
    assert caught.value.field == field
