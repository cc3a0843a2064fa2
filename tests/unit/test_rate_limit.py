"""Who writes too often is not delivered, is told when to go on, and is forgiven in time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenthub_core import (
    HUMAN,
    Broker,
    Gateway,
    InvalidValue,
    MessageType,
    Outcome,
    Policy,
    RateLimit,
    RequestRefused,
    Sent,
    Settlement,
)
from agenthub_core.model import COORDINATOR
from agenthub_core.protocol import MessageArrived, Settle
from agenthub_core.senders import Senders
from agenthub_core.testing import NOON, ManualClock, MemoryStore
from tests.unit.builders import agent, message, of, seconds

NONE = timedelta(0)
THREE_A_MINUTE = RateLimit(maximum=3, window=timedelta(minutes=1))


def admitted(senders: Senders, *after: float, sender: str = "alice") -> list[float]:
    """How long somebody should have waited before each message, in seconds."""
    return [senders.admit(sender, NOON + seconds(each)).total_seconds() for each in after]


# ------------------------------------------------------------------------------------- the rule


def test_as_many_as_the_maximum_may_be_written_within_a_window() -> None:
    assert admitted(Senders(THREE_A_MINUTE, ()), 0, 1, 2, 3) == [0, 0, 0, 57]


def test_the_window_slides() -> None:
    assert admitted(Senders(THREE_A_MINUTE, ()), 0, 30, 31, 60, 61, 90) == [0, 0, 0, 0, 29, 0]


def test_what_was_refused_does_not_count() -> None:
    senders = Senders(THREE_A_MINUTE, ())
    assert admitted(senders, *range(60))[3:] == [float(60 - each) for each in range(3, 60)]
    assert admitted(senders, 60) == [0]


def test_a_cooldown_lies_between_two_messages() -> None:
    senders = Senders(RateLimit(cooldown=seconds(10)), ())
    assert admitted(senders, 0, 4, 10, 19.5) == [0, 6, 0, 0.5]


def test_a_cooldown_may_be_longer_than_the_window() -> None:
    limit = RateLimit(maximum=9, window=seconds(1), cooldown=seconds(60))
    assert admitted(Senders(limit, ()), 0, 30, 60) == [0, 30, 0]


def test_each_sender_has_a_window_of_its_own() -> None:
    senders = Senders(RateLimit(maximum=1), ())
    assert admitted(senders, 0) == [0]
    assert admitted(senders, 0, sender="bob") == [0]


@pytest.mark.parametrize("sender", [HUMAN, "hub", COORDINATOR])
def test_the_hubs_own_and_the_person_write_as_they_like(sender: str) -> None:
    assert admitted(Senders(RateLimit(maximum=1), ()), 0, 0, 0, sender=sender) == [0, 0, 0]


def test_without_a_limit_everybody_does() -> None:
    assert admitted(Senders(None, ()), *[0] * 1000) == [0] * 1000


def test_a_restart_forgives_nobody() -> None:
    written = [("alice", NOON - seconds(each)) for each in (50, 40, 30)]
    assert admitted(Senders(THREE_A_MINUTE, written), 0, 9.5, 10) == [10, 0.5, 0]


@given(
    st.lists(st.floats(0, 600), max_size=60).map(sorted),
    st.integers(1, 5),
    st.integers(1, 120),
    st.integers(0, 120),
)
def test_no_window_ever_holds_more_and_no_pause_is_shorter(
    times: Sequence[float], maximum: int, window: int, cooldown: int
) -> None:
    limit = RateLimit(maximum=maximum, window=seconds(window), cooldown=seconds(cooldown))
    senders = Senders(limit, ())
    passed = [NOON + seconds(each) for each in times if admitted(senders, each) == [0]]
    for first, after in zip(passed, passed[maximum:], strict=False):
        assert after - first >= limit.window
    for before, after in pairwise(passed):
        assert after - before >= limit.cooldown


@pytest.mark.parametrize(
    "wrong", [{"maximum": 0}, {"window": NONE}, {"cooldown": timedelta(seconds=-1)}]
)
def test_a_limit_that_is_none_cannot_be_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        RateLimit(**wrong)


# ----------------------------------------------------------------------------------- the broker


def arrive(broker: Broker, key: str, *, recovered: bool = False, **fields: Any) -> list[Settlement]:
    """A message arrives at noon; what is settled at once."""
    arrived = MessageArrived(key=key, message=message(id=key, **fields), recovered=recovered)
    return [settle.settlement for settle in of(Settle, broker.handle(arrived, NOON))]


def test_a_message_too_many_is_settled_with_the_time_to_wait() -> None:
    broker = Broker(Policy(rate_limit=THREE_A_MINUTE))
    assert [arrive(broker, key) for key in ("m1", "m2", "m3")] == [[], [], []]
    (settled,) = arrive(broker, "m4")
    assert settled.outcome is Outcome.RATE_LIMITED
    assert settled.reason == "alice wrote too often; it may write again in 60 s"
    assert settled.deliveries == ()


def test_what_is_found_after_a_restart_counts_when_it_was_written() -> None:
    broker = Broker(
        Policy(rate_limit=THREE_A_MINUTE),
        written=[("alice", NOON - seconds(each)) for each in (290, 280, 5)],
    )
    old = {"timestamp": NOON - seconds(200)}
    assert arrive(broker, "m1", recovered=True, **old) == []
    assert arrive(broker, "m2") == []
    assert arrive(broker, "m3") == []
    assert len(arrive(broker, "m4")) == 1


def test_a_message_counts_when_it_was_written_though_it_arrives_a_little_later() -> None:
    """The gateway has told its sender that it may write by then."""
    broker = Broker(Policy(rate_limit=RateLimit(maximum=1, window=seconds(60))))
    slow = message(id="m1", timestamp=NOON - seconds(1))
    quick = message(id="m2", timestamp=NOON + seconds(59))
    arrivals = [(slow, NOON), (quick, NOON + seconds(59.001))]
    for written, now in arrivals:
        assert of(Settle, broker.handle(MessageArrived(key=written.id, message=written), now)) == []


def test_nobody_gets_round_the_limit_by_writing_into_the_past() -> None:
    broker = Broker(Policy(rate_limit=RateLimit(maximum=1)))
    assert arrive(broker, "m1") == []
    (settled,) = arrive(broker, "m2", timestamp=NOON - timedelta(hours=1))
    assert settled.outcome is Outcome.RATE_LIMITED


# ---------------------------------------------------------------------------------- the gateway


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.save_agent(agent("alice"))
    return store


def ask(store: MemoryStore, clock: ManualClock, sender: str = "alice") -> Sent:
    numbers = count(len(store.keys()) + len(store.archive))
    gateway = Gateway(
        store,
        clock=clock,
        new_id=lambda: f"n{next(numbers)}",
        acting_as=[HUMAN],
        policy=Policy(rate_limit=THREE_A_MINUTE),
    )
    return gateway.send(sender=sender, recipient="bob", type=MessageType.TASK, content="Build it")


def test_a_sender_is_told_how_many_messages_are_left(store: MemoryStore) -> None:
    clock = ManualClock()
    assert [ask(store, clock).left for _ in range(3)] == [2, 1, 0]


def test_a_sender_at_its_limit_is_refused_before_anything_is_written(store: MemoryStore) -> None:
    clock = ManualClock()
    for _ in range(3):
        ask(store, clock)
    clock.advance(seconds(15))
    with pytest.raises(RequestRefused, match=r'"alice" has written too often: .* in 45 s'):
        ask(store, clock)
    assert len(store.keys()) == 3
    clock.advance(seconds(45))
    assert ask(store, clock).left == 2


def test_settled_messages_count_but_not_those_that_were_too_many(store: MemoryStore) -> None:
    clock = ManualClock()
    for key, outcome in (("a", Outcome.DELIVERED), ("b", Outcome.RATE_LIMITED)):
        written = message(id=key)
        settled = Settlement(key=store.put(written), message=written, outcome=outcome, at=NOON)
        store.settle([settled])
    assert ask(store, clock).left == 1


def test_a_person_has_no_limit(store: MemoryStore) -> None:
    assert [ask(store, ManualClock(), HUMAN).left for _ in range(9)] == [None] * 9


def test_a_thread_is_not_closed_for_some_of_its_members_only(store: MemoryStore) -> None:
    clock = ManualClock()
    for name in ("bob", "carol"):
        store.put(message(id=name, recipient=name, thread_id="t"))
    gateway = Gateway(
        store, clock=clock, new_id=lambda: "n", policy=Policy(rate_limit=THREE_A_MINUTE)
    )
    with pytest.raises(RequestRefused, match="written too often"):
        gateway.resolve("t", sender="alice")
    assert len(store.keys()) == 2


@pytest.mark.parametrize(
    "limit", [RateLimit(cooldown=seconds(1)), RateLimit(maximum=1)], ids=["cooldown", "maximum"]
)
def test_who_may_never_tell_all_at_once_is_told_to_do_it_one_by_one(
    store: MemoryStore, limit: RateLimit
) -> None:
    for name in ("bob", "carol"):
        store.put(message(id=name, recipient=name, thread_id="t"))
    clock = ManualClock()
    clock.advance(timedelta(days=1))
    gateway = Gateway(store, clock=clock, new_id=lambda: "n", policy=Policy(rate_limit=limit))
    with pytest.raises(RequestRefused, match=r"2 others are in the thread.* one after the other"):
        gateway.resolve("t", sender="alice")


def test_a_message_that_is_rewritten_while_it_waits_counts_once() -> None:
    broker = Broker(Policy(rate_limit=RateLimit(maximum=2)))
    for content in ("one", "two", "three"):
        assert arrive(broker, "m1", content=content) == []
    assert arrive(broker, "m2") == []
    assert len(arrive(broker, "m3")) == 1
