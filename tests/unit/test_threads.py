"""What a conversation is, as its messages tell: whose it is, who is in it, and how it stands."""

from __future__ import annotations

import pytest

from agenthub_core import EVERYONE, HUMAN, Message, MessageType, Thread, ThreadStatus
from agenthub_core.testing import NOON
from agenthub_core.threads import says_resolved, thread_of
from tests.unit.builders import message, seconds


def closing(sender: str, at: float, **fields: object) -> Message:
    """A closing note, so many seconds after noon."""
    return message(
        id=f"{sender}-{at}",
        sender=sender,
        type=MessageType.COMPLETION,
        content="RESOLVED",
        timestamp=NOON + seconds(at),
        **fields,
    )


def status(*messages: Message) -> ThreadStatus:
    thread = thread_of(messages)
    assert thread is not None
    return thread.status


# ------------------------------------------------------------------------------ the closing word


@pytest.mark.parametrize(
    "content",
    [
        "RESOLVED",
        "RESOLVED: the port is 8080",
        "All of it is done.\nRESOLVED.",
        "**RESOLVED**",
        "(RESOLVED)",
        "It was not RESOLVED yesterday, now it is RESOLVED",
        "It was not easy, but RESOLVED",
        "I cannot see why. RESOLVED",
        "Nothing is unresolved: RESOLVED",
        "The tests do not fail\n\nRESOLVED",
        "The tests do not fail\n \t\nRESOLVED",
        "Why?\n\nIt was not\n\n**RESOLVED**: it is now",
        "It is `RESOLVED`",
        "\u201cRESOLVED\u201d",
    ],
)
def test_the_word_in_a_completion_closes_a_thread(content: str) -> None:
    assert says_resolved(message(type=MessageType.COMPLETION, content=content))


@pytest.mark.parametrize(
    "content",
    [
        "Done",
        "resolved",
        "Resolved",
        "unresolved",
        "UNRESOLVED",
        "RESOLVED_BY_BOB",
        "RESOLVEDLY",
        "not RESOLVED",
        "NOT RESOLVED",
        "This is not yet RESOLVED",
        "This is not really fully RESOLVED",
        "It isn't RESOLVED",
        "It isn't yet RESOLVED",
        "It isn\u2019t yet RESOLVED",
        "It HASN'T been RESOLVED",
        "never RESOLVED",
        "This cannot be RESOLVED",
        "not RESOLVED, and never RESOLVED",
        "not\nRESOLVED",
        "This is not yet\nRESOLVED",
        "**not** RESOLVED",
        "not **RESOLVED**",
        "_not_ yet `RESOLVED`",
        'It isn\'t "RESOLVED"',
        "It isn't \u201cRESOLVED\u201d",
        "Done\n\nnot RESOLVED",
    ],
)
def test_another_word_or_a_negated_one_closes_nothing(content: str) -> None:
    assert not says_resolved(message(type=MessageType.COMPLETION, content=content))


@pytest.mark.parametrize(
    "kind", [kind for kind in MessageType if kind is not MessageType.COMPLETION]
)
def test_only_a_completion_closes_a_thread(kind: MessageType) -> None:
    assert not says_resolved(message(type=kind, content="RESOLVED"))


# ------------------------------------------------------------------------------------- the thread


def test_no_messages_are_no_thread() -> None:
    assert thread_of([]) is None


def test_a_thread_tells_who_began_it_who_is_in_it_and_since_when() -> None:
    messages = [
        message(id="m1", sender="alice", recipient="bob", timestamp=NOON),
        message(id="m2", sender="bob", recipient="carol", timestamp=NOON + seconds(1)),
        message(id="m3", sender="carol", recipient="alice", timestamp=NOON + seconds(2)),
    ]
    told = Thread(
        id="t1",
        creator="alice",
        broadcast=False,
        participants=("alice", "bob", "carol"),
        status=ThreadStatus.OPEN,
        messages=3,
        started=NOON,
        updated=NOON + seconds(2),
    )
    assert thread_of(messages) == told
    assert thread_of(reversed(messages)) == told, "in whatever order they were found"


def test_everyone_is_no_participant() -> None:
    thread = thread_of([message(recipient=EVERYONE)])
    assert thread is not None
    assert (thread.participants, thread.broadcast) == (("alice",), True)


def test_a_thread_is_a_broadcast_only_if_it_began_as_one() -> None:
    thread = thread_of(
        [message(), message(id="m2", recipient=EVERYONE, timestamp=NOON + seconds(1))]
    )
    assert thread is not None
    assert not thread.broadcast


def test_a_thread_may_be_resolved_by_its_creator_and_by_the_person() -> None:
    thread = thread_of([message(sender="alice", recipient="bob")])
    assert thread is not None
    assert thread.may_be_resolved_by("alice")
    assert thread.may_be_resolved_by(HUMAN)
    assert not thread.may_be_resolved_by("bob")
    assert not thread.may_be_resolved_by("carol")


def test_a_thread_that_everyone_was_told_may_be_resolved_by_anybody() -> None:
    thread = thread_of([message(recipient=EVERYONE)])
    assert thread is not None
    assert thread.may_be_resolved_by("carol")


# ------------------------------------------------------------------------------------- its status


def test_a_thread_is_open_until_its_creator_closes_it() -> None:
    assert status(message()) is ThreadStatus.OPEN
    assert status(message(), closing("alice", 1)) is ThreadStatus.RESOLVED


def test_the_person_may_close_any_thread() -> None:
    assert status(message(), closing(HUMAN, 1)) is ThreadStatus.RESOLVED


def test_a_stranger_closes_nothing() -> None:
    assert status(message(), closing("bob", 1, recipient="alice")) is ThreadStatus.OPEN


def test_anybody_may_close_what_everyone_was_told() -> None:
    opened = message(recipient=EVERYONE)
    assert status(opened, closing("bob", 1, recipient="alice")) is ThreadStatus.RESOLVED


def test_a_later_message_opens_a_thread_again() -> None:
    later = message(id="m3", sender="bob", recipient="alice", timestamp=NOON + seconds(2))
    assert status(message(), closing("alice", 1), later) is ThreadStatus.OPEN
    assert status(later, closing("alice", 1), message()) is ThreadStatus.OPEN, "in any order"
    assert status(message(), closing("alice", 1), later, closing("alice", 3)) is (
        ThreadStatus.RESOLVED
    )


def test_a_strangers_closing_word_after_the_creators_opens_the_thread_again() -> None:
    last = closing("bob", 2, recipient="alice")
    assert status(message(), closing("alice", 1), last) is ThreadStatus.OPEN


def test_one_message_may_open_and_close_a_thread() -> None:
    assert status(closing("alice", 0)) is ThreadStatus.RESOLVED
