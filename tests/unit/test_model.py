"""The model's values cannot be made wrong, cannot be changed, and know what makes them the same."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from attrs.exceptions import FrozenInstanceError
from hypothesis import given
from hypothesis import strategies as st

from agenthub_core import (
    EVERYONE,
    Fault,
    InvalidValue,
    MessageType,
    Outcome,
    Priority,
    Prompt,
    Receipt,
    Settlement,
)
from agenthub_core.model import fingerprint, is_identifier, shown
from agenthub_core.testing import NOON
from tests.unit.builders import agent, message, session

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001  # the fault that the model must find
NO_NAMES = [
    "../../x",
    "a/b",
    "a\0b",
    "",
    "a b",
    "a\n",
    "ä",
    ".",
    "a" * 101,
    "a" * 300,
    None,
    7,
    b"a",
]


def prompt(**fields: Any) -> Prompt:
    defaults: dict[str, Any] = {"id": "p", "session_id": "s", "text": "Hello", "written": NOON}
    return Prompt(**(defaults | fields))


def settlement(**fields: Any) -> Settlement:
    defaults: dict[str, Any] = {
        "key": "m1",
        "message": message(),
        "outcome": Outcome.DELIVERED,
        "at": NOON,
    }
    return Settlement(**(defaults | fields))


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_what_could_name_another_file_names_nothing(name: object) -> None:
    assert not is_identifier(name)


@pytest.mark.parametrize("name", ["a", "A-z_09", "--", "a" * 100, EVERYONE])
def test_letters_digits_underscore_and_hyphen_make_a_name(name: str) -> None:
    assert is_identifier(name)


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
@pytest.mark.parametrize("field", ["id", "sender", "recipient", "thread_id"])
def test_a_message_is_not_made_with_a_bad_name(field: str, name: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        message(**{field: name})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("build", "field", "value"),
    [
        (message, "content", ""),
        (message, "content", " \n\t"),
        (message, "content", "\ud800"),
        (message, "content", None),
        (message, "type", "task"),
        (message, "priority", "urgent"),
        (message, "read", 1),
        (message, "timestamp", NAIVE),
        (message, "timestamp", NOON.isoformat()),
        (session, "id", ""),
        (session, "id", None),
        (session, "created", NAIVE),
        (session, "updated", NAIVE),
        (agent, "id", "a/b"),
        (agent, "last_seen", NAIVE),
        (prompt, "id", ""),
        (prompt, "session_id", ""),
        (prompt, "text", " "),
        (prompt, "written", NAIVE),
        (settlement, "at", NAIVE),
    ],
)
def test_a_value_that_breaks_a_rule_is_not_made(
    build: Callable[..., object], field: str, value: object
) -> None:
    with pytest.raises(InvalidValue) as caught:
        build(**{field: value})
    assert caught.value.field == field


def test_an_error_shows_what_was_found_on_one_plain_line() -> None:
    with pytest.raises(InvalidValue) as caught:
        message(id="evil\n\x1b[31m")
    rule = "1 to 100 characters of A-Z a-z 0-9 _ -"
    assert str(caught.value) == rf"id: found 'evil\n\x1b[31m', expected {rule}"


def test_an_error_shows_the_beginning_of_what_is_too_long() -> None:
    assert shown("a" * 300) == "'" + "a" * 59 + "… (302 characters)"


def test_a_fault_reads_like_the_error() -> None:
    fault = Fault(field="to", found="7", expected="a name")
    assert str(fault) == str(InvalidValue("to", "7", "a name")) == "to: found 7, expected a name"


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (message(), "content"),
        (session(), "id"),
        (agent(), "session_id"),
        (prompt(), "text"),
        (settlement(), "outcome"),
        (Receipt(prompt_id="p", session_id="s"), "prompt_id"),
    ],
)
def test_a_value_does_not_change(value: object, field: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, field, "another")


def test_what_else_a_sender_wrote_does_not_change_either() -> None:
    extra = {"mood": "good"}
    written: Any = message(extra=extra)
    extra["mood"] = "bad"
    assert written.extra == {"mood": "good"}
    with pytest.raises(TypeError):
        written.extra["mood"] = "bad"


@pytest.mark.parametrize(
    "same",
    [{"read": True}, {"extra": {"mood": "good"}}, {"priority": Priority.URGENT}],
    ids=str,
)
def test_what_does_not_change_the_words_leaves_the_digest(same: dict[str, Any]) -> None:
    assert message(**same).digest == message().digest


@pytest.mark.parametrize(
    "other",
    [
        {"id": "m2"},
        {"sender": "carol"},
        {"recipient": "carol"},
        {"type": MessageType.TASK},
        {"content": "Hello!"},
        {"thread_id": "t2"},
        {"timestamp": NOON + timedelta(microseconds=1)},
    ],
    ids=str,
)
def test_other_words_have_another_digest(other: dict[str, Any]) -> None:
    assert message(**other).digest != message().digest


def test_moving_a_letter_from_one_field_to_the_next_changes_the_digest() -> None:
    assert message(id="ab", sender="c").digest != message(id="a", sender="bc").digest


@given(*[st.lists(st.text("a1:", max_size=3), max_size=4)] * 2)
def test_fingerprints_are_equal_where_the_parts_are(one: list[str], other: list[str]) -> None:
    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)


def test_equal_messages_hash_equally_whatever_else_they_carry() -> None:
    assert {message(extra={"a": [1]})} == {message(extra={"a": [1]})}
    assert message(extra={"a": 1}) != message(extra={"a": 2})


def test_only_a_message_to_everyone_is_a_broadcast() -> None:
    assert message(recipient=EVERYONE).is_broadcast
    assert not message().is_broadcast


def test_urgent_goes_before_high_before_normal_before_low() -> None:
    order = (Priority.URGENT, Priority.HIGH, Priority.NORMAL, Priority.LOW)
    assert [priority.rank for priority in order] == [0, 1, 2, 3]
