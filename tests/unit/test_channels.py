"""Who goes next: the most pressing of all first, and nothing beside what is under way."""

from __future__ import annotations

from datetime import datetime

import pytest

from agenthub_core.channels import Channels, Place
from agenthub_core.testing import NOON
from tests.unit.builders import seconds

LATER = NOON + seconds(1)


def channels(*recipients: str) -> Channels:
    """Each with a session."""
    made = Channels()
    for recipient in recipients:
        made.connect(recipient, f"ses_{recipient}")
    return made


def take(channels: Channels, now: datetime = NOON) -> tuple[str, str] | None:
    taken = channels.take(now, 1)
    if taken is None:
        return None
    channel, (key,) = taken
    return channel.recipient, key


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, LATER, 2, "b"), (1, NOON, 1, "a")),
        ((1, NOON, 2, "b"), (1, LATER, 1, "a")),
        ((1, NOON, 1, "b"), (1, NOON, 2, "a")),
    ],
    ids=["rank before age", "age before arrival", "arrival before name"],
)
def test_rank_goes_before_age_and_age_before_arrival(first: Place, second: Place) -> None:
    for places in ((first, second), (second, first)):
        queue = channels("bob")
        for place in places:
            queue.put("bob", place)
        assert take(queue) == ("bob", first[-1])
        queue.arrived("bob", first[-1])
        assert take(queue) == ("bob", second[-1])


def test_the_most_pressing_of_all_recipients_goes_first() -> None:
    queue = channels("bob", "carol")
    queue.put("bob", (1, NOON, 1, "calm"))
    queue.put("carol", (0, NOON, 2, "urgent"))
    assert [take(queue), take(queue)] == [("carol", "urgent"), ("bob", "calm")]


def test_a_broadcast_goes_out_in_the_order_of_names() -> None:
    names = [f"agent{number}" for number in range(10)]
    queue = channels(*reversed(names))
    for name in names:
        queue.put(name, (1, NOON, 1, "news"))
    assert [take(queue) for _ in names] == [(name, "news") for name in names]


def test_several_go_together_in_order_and_no_more_than_asked_for() -> None:
    queue = channels("bob")
    for arrival, key in enumerate("cab"):
        queue.put("bob", (1, NOON, arrival, key))
    taken = queue.take(NOON, 2)
    assert taken is not None
    assert taken[1] == ("c", "a")


def test_nothing_goes_beside_what_goes_together_until_the_last_of_it_has_arrived() -> None:
    queue = channels("bob")
    for arrival, key in enumerate("abc"):
        queue.put("bob", (1, NOON, arrival, key))
    queue.take(NOON, 2)
    queue.arrived("bob", "a")
    assert (take(queue), queue.is_engaged("ses_bob"), queue.is_idle("bob")) == (None, True, False)
    queue.arrived("bob", "b")
    assert (queue.is_engaged("ses_bob"), take(queue)) == (False, ("bob", "c"))


def test_a_session_that_several_lead_into_is_known_by_all_of_them() -> None:
    queue = channels("bob", "carol")
    queue.connect("polly", "ses_bob")
    assert [channel.recipient for channel in queue.into("ses_bob")] == ["bob", "polly"]
    assert queue.into("ses_nobody") == []


def test_nothing_goes_to_a_recipient_without_a_session() -> None:
    queue = channels()
    queue.put("bob", (1, NOON, 1, "a"))
    assert take(queue) is None
    queue.connect("bob", "ses_bob")
    assert take(queue) == ("bob", "a")


def test_what_was_dropped_does_not_go() -> None:
    queue = channels("bob")
    queue.put("bob", (1, NOON, 1, "a"))
    queue.drop("bob", "a")
    assert take(queue) is None


def test_what_was_dropped_and_put_again_goes_from_its_new_place() -> None:
    queue = channels("bob")
    queue.put("bob", (0, NOON, 1, "first"))
    queue.put("bob", (1, NOON, 2, "moved"))
    queue.put("bob", (2, NOON, 3, "second"))
    queue.drop("bob", "moved")
    queue.put("bob", (3, NOON, 4, "moved"))
    order = []
    while (taken := take(queue)) is not None:
        order.append(taken[1])
        queue.arrived("bob", taken[1])
    assert order == ["first", "second", "moved"]


def test_a_channel_that_is_held_back_takes_part_again_when_its_time_has_come() -> None:
    queue = channels("bob")
    queue.put("bob", (1, NOON, 1, "a"))
    queue["bob"].held_until = LATER
    assert take(queue) is None
    assert take(queue, LATER) == ("bob", "a")


def test_releasing_names_the_channels_that_were_held_back() -> None:
    queue = channels("bob", "carol")
    queue["bob"].held_until = LATER
    assert [channel.recipient for channel in queue.release()] == ["bob"]
    assert queue.release() == []


def test_recovery_forgets_the_failures() -> None:
    channel = channels("bob")["bob"]
    channel.failures, channel.held_until, channel.trouble = 3, LATER, ValueError
    channel.recovered()
    assert channel == channels("bob")["bob"]


def test_a_name_for_which_nothing_waits_costs_nothing() -> None:
    queue = channels()
    queue.put("nobody", (1, NOON, 1, "a"))
    before = queue["nobody"]
    queue.drop("nobody", "a")
    assert queue["nobody"] is not before
