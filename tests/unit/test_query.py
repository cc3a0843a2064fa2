"""What a query accepts: each field on its own, and all that are set together."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from agenthub_core import EVERYONE, MessageType, Outcome, Query
from agenthub_core.testing import NOON
from tests.unit.builders import message

MOMENT = timedelta(microseconds=1)


def test_a_query_in_which_nothing_is_set_accepts_everything() -> None:
    assert Query().accepts(message())
    assert Query().accepts(message(read=True), Outcome.EXPIRED)


@pytest.mark.parametrize(
    ("query", "accepted", "refused"),
    [
        (Query(id_prefix="m1"), {"id": "m12"}, {"id": "xm1"}),
        (Query(sender="alice"), {"sender": "alice"}, {"sender": "al"}),
        (Query(recipient="bob"), {"recipient": "bob"}, {"recipient": EVERYONE}),
        (Query(thread_id="t1"), {"thread_id": "t1"}, {"thread_id": "t11"}),
        (
            Query(type=MessageType.ERROR),
            {"type": MessageType.ERROR},
            {"type": MessageType.TASK},
        ),
        (Query(unread=True), {"read": False}, {"read": True}),
        (Query(text="port"), {"content": "Which port?"}, {"content": "Which p ort?"}),
        (Query(since=NOON), {"timestamp": NOON}, {"timestamp": NOON - MOMENT}),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_each_field_accepts_what_has_it_and_refuses_what_has_not(
    query: Query, accepted: dict[str, Any], refused: dict[str, Any]
) -> None:
    assert query.accepts(message(**accepted))
    assert not query.accepts(message(**refused))


def test_an_agents_messages_are_those_it_wrote_was_written_or_shared_with_others() -> None:
    query = Query(agent="bob")
    assert query.accepts(message(sender="bob", recipient="carol"))
    assert query.accepts(message(sender="alice", recipient="bob"))
    assert query.accepts(message(sender="alice", recipient=EVERYONE))
    assert not query.accepts(message(sender="alice", recipient="carol"))


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("API", "the api"),
        ("api", "the API"),
        ("grüße", "GRÜSSE, Grüße"),
        ("ÜBER", "über"),
        ("k", "273 \u212a"),
        ("two\nlines", "Two\nLines"),
    ],
)
def test_a_text_is_found_in_small_letters_or_capitals(text: str, content: str) -> None:
    assert Query(text=text).accepts(message(content=content))


def test_what_waits_has_no_outcome() -> None:
    query = Query(outcomes=frozenset({Outcome.EXPIRED, Outcome.REJECTED}))
    assert query.accepts(message(), Outcome.EXPIRED)
    assert query.accepts(message(), Outcome.REJECTED)
    assert not query.accepts(message(), Outcome.DELIVERED)
    assert not query.accepts(message())


def test_no_outcome_at_all_accepts_nothing() -> None:
    assert not Query(outcomes=frozenset()).accepts(message())
    assert not Query(outcomes=frozenset()).accepts(message(), Outcome.DELIVERED)


def test_all_that_is_set_must_hold() -> None:
    query = Query(sender="alice", type=MessageType.TASK, text="port", since=NOON)
    fitting = message(type=MessageType.TASK, content="the port")
    assert query.accepts(fitting)
    for change in (
        {"sender": "carol"},
        {"type": MessageType.CONTEXT},
        {"content": "the door"},
        {"timestamp": NOON - MOMENT},
    ):
        fields: dict[str, Any] = {"type": MessageType.TASK, "content": "the port"} | change
        assert not query.accepts(message(**fields)), change
