"""What the broker does about what lies in the store, and when the store fails."""

from __future__ import annotations

import pytest

from agenthub_core import (
    EVERYONE,
    Outcome,
    Priority,
    RelayUnreachable,
    StoreError,
    StoreUnreadable,
    StoreUnwritable,
)
from agenthub_core.protocol import (
    Event,
    Inject,
    MalformedArrived,
    MessageWithdrawn,
    Notify,
    Quarantine,
    Quarantined,
    Settle,
    StoreFailed,
    StoreRead,
    UnreadableFound,
)
from tests.unit.builders import (
    FAULT,
    Story,
    injected,
    message,
    of,
    outcomes,
    seconds,
    session,
    topics,
)

FULL = StoreUnwritable("no space left on the disk")
AWAY = StoreUnreadable("the directory is gone")
READ_FAILS, WRITE_FAILS = StoreFailed(error=AWAY), StoreFailed(error=FULL)
READ_WORKS, WRITE_WORKS = StoreRead(), Quarantined(key="bad")


# ----------------------------------------------------------------------------------- settling


def test_what_could_not_be_settled_is_settled_later() -> None:
    story = Story("bob")
    story.arrives(message())
    (first,) = of(Settle, story.holds())
    story.settle_fails(FULL)
    assert of(Settle, story.wait(seconds(4.9))) == []
    assert of(Settle, story.wait(seconds(0.1))) == [first]
    story.settled()
    assert of(Settle, story.wait(seconds(60))) == []


def test_a_settlement_that_fails_is_not_injected_again() -> None:
    story = Story("bob")
    story.arrives(message())
    story.holds()
    story.settle_fails(FULL)
    assert injected(story.arrives(message())) == []
    assert injected(story.wait(seconds(60))) == []


def test_a_full_disk_is_told_once_and_once_when_it_is_over() -> None:
    story = Story("bob")
    story.arrives(message())
    story.holds()
    told = []
    for _ in range(3):
        told.append(topics(story.settle_fails(FULL)))
        story.wait(seconds(5))
    assert told == [["store.failed"], [], []]
    assert topics(story.settled()) == ["store.recovered"]
    assert topics(story.settle_fails(FULL)) == ["store.failed"]


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([READ_FAILS, READ_FAILS], ["store.failed"]),
        ([READ_FAILS, READ_WORKS, READ_WORKS], ["store.failed", "store.recovered"]),
        ([WRITE_FAILS, WRITE_WORKS, WRITE_WORKS], ["store.failed", "store.recovered"]),
        ([READ_FAILS, WRITE_FAILS], ["store.failed", "store.failed"]),
        ([WRITE_FAILS, READ_WORKS], ["store.failed"]),
        ([READ_FAILS, WRITE_WORKS], ["store.failed"]),
        ([READ_WORKS, WRITE_WORKS], []),
    ],
)
def test_reading_and_writing_fail_and_recover_on_their_own(
    events: list[Event], told: list[str]
) -> None:
    story = Story()
    assert [topic for event in events for topic in topics(story.tell(event))] == told


@pytest.mark.parametrize("error", [FULL, AWAY])
def test_the_trouble_of_the_store_is_told_in_its_own_words(error: StoreError) -> None:
    (told,) = of(Notify, Story().tell(StoreFailed(error=error)))
    assert told.text == f"{error}. Nothing is lost; it is tried again"


# -------------------------------------------------------------------- what cannot be delivered


def test_what_is_no_message_is_put_aside_and_told_once_until_that_is_done() -> None:
    story = Story()
    malformed = MalformedArrived(key="bad", fault=FAULT)
    for told in (["message.malformed"], [], []):
        actions = story.tell(malformed)
        assert of(Quarantine, actions) == [Quarantine(key="bad", fault=FAULT)]
        assert topics(actions) == told
    story.tell(Quarantined(key="bad"))
    assert topics(story.tell(malformed)) == ["message.malformed"]


def test_what_is_left_unread_is_told() -> None:
    (told,) = of(Notify, Story().tell(UnreadableFound(key="link", reason="it is a link")))
    assert (told.topic, told.text) == ("message.unreadable", "link is left unread: it is a link")


# ---------------------------------------------------------------------- withdrawn or rewritten


def withdraw(story: Story, key: str = "m1") -> list[str]:
    return topics(story.tell(MessageWithdrawn(key=key)))


@pytest.mark.parametrize("recipient", ["nobody", EVERYONE])
def test_a_message_that_was_withdrawn_before_anybody_came_is_forgotten(recipient: str) -> None:
    story = Story("alice")
    story.arrives(message(recipient=recipient))
    assert withdraw(story) == ["message.withdrawn"]
    assert not story.broker.pending
    actions = story.lists(session("nobody")) + story.wait(seconds(7200))
    assert (injected(actions), outcomes(actions)) == ([], [])


def test_a_message_that_was_withdrawn_from_the_queue_is_not_injected() -> None:
    story = Story("bob")
    story.arrives(message(id="m1"), message(id="m2"), message(id="m3"))
    withdraw(story, "m2")
    assert injected(story.holds("m1")) == [("m3", "bob")]


def test_a_message_that_was_withdrawn_while_under_way_is_followed_to_its_end() -> None:
    story = Story("bob")
    story.arrives(message())
    assert withdraw(story) == []
    assert outcomes(story.holds()) == [("m1", Outcome.DELIVERED)]


def test_what_is_being_settled_cannot_be_withdrawn() -> None:
    story = Story("bob")
    story.arrives(message())
    story.holds()
    assert withdraw(story) == []
    story.settle_fails(FULL)
    assert outcomes(story.wait(seconds(5))) == [("m1", Outcome.DELIVERED)]


def test_withdrawing_what_nobody_knows_is_nothing() -> None:
    assert withdraw(Story()) == []


def test_the_same_message_arriving_again_is_the_same_message() -> None:
    story = Story("alice")
    story.arrives(message())
    assert topics(story.arrives(message())) == []
    assert injected(story.lists(session("bob"))) == [("m1", "bob")]


def test_a_message_rewritten_before_anything_was_tried_replaces_the_first() -> None:
    story = Story("alice")
    story.arrives(message(content="first"))
    story.arrives(message(content="second"))
    (inject,) = of(Inject, story.lists(session("bob")))
    assert "second" in inject.prompt.text
    (settle,) = of(Settle, story.holds())
    assert settle.settlement.message.content == "second"


def test_a_message_rewritten_to_another_recipient_goes_there_only() -> None:
    story = Story("alice")
    story.arrives(message(recipient="bob"))
    story.arrives(message(recipient="carol"))
    assert injected(story.lists(session("bob"), session("carol"))) == [("m1", "carol")]


def test_a_message_that_is_not_urgent_any_more_loses_its_place() -> None:
    story = Story()
    story.arrives(
        message(id="first", priority=Priority.URGENT),
        message(id="moved", priority=Priority.HIGH),
        message(id="second"),
    )
    story.arrives(message(id="moved", priority=Priority.LOW))
    order = injected(story.lists(session("bob")))
    assert order == [("first", "bob"), ("second", "bob"), ("moved", "bob")]


def test_a_message_marked_as_read_while_it_waits_is_settled_as_read() -> None:
    story = Story("alice")
    story.arrives(message())
    assert outcomes(story.arrives(message(read=True))) == [("m1", Outcome.READ)]


def test_a_message_rewritten_while_under_way_is_left_for_later() -> None:
    story = Story("bob")
    story.arrives(message(content="first"))
    story.arrives(message(content="second"))
    (settle,) = of(Settle, story.holds())
    assert settle.settlement.message.content == "first"
    story.settled()
    (inject,) = of(Inject, story.arrives(message(content="second")))
    assert "second" in inject.prompt.text


def test_a_message_rewritten_after_an_attempt_may_be_held_already() -> None:
    story = Story("bob")
    story.arrives(message())
    story.fails(RelayUnreachable("timed out, and yet it came through"))
    story.arrives(message(extra={"note": "the same words"}))
    (inject,) = of(Inject, story.wait(seconds(0.2)))
    assert inject.prompt.repeated
