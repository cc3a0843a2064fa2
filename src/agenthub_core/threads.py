"""A conversation, as its messages tell it. Pure; what is kept of it, and where, is for others."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from datetime import datetime

from attrs import evolve, frozen

from agenthub_core.model import EVERYONE, HUMAN, Message, MessageType

RESOLVED = "RESOLVED"
"""The word in a `completion` that closes a thread (opencode-agent-hub)."""

_EMPHASIS = str.maketrans("", "", "*_`\"'\u2018\u2019\u201c\u201d")
_CLOSES = re.compile(rf"(?<!\w){RESOLVED}(?!\w)")
_GAP = r"(?:[ \t]|\n(?!\s*\n))+"  # between two words of one paragraph
_NEGATED = re.compile(
    rf"\b(?:not|never|cannot|\w+nt){_GAP}(?:\w+{_GAP}){{0,2}}{RESOLVED}(?!\w)", re.IGNORECASE
)


class ThreadStatus(enum.Enum):
    """Where a conversation stands."""

    OPEN = "open"
    RESOLVED = "resolved"


@frozen(kw_only=True)
class Thread:
    """What is known of a conversation."""

    id: str
    creator: str
    """Who wrote its first message."""
    broadcast: bool
    """It began with a message to everyone, so that it is nobody's own."""
    participants: tuple[str, ...]
    """Who wrote or was written to, in order of appearance."""
    status: ThreadStatus
    messages: int
    started: datetime
    updated: datetime

    def may_be_resolved_by(self, name: str) -> bool:
        return self.broadcast or name in (self.creator, HUMAN)


def says_resolved(message: Message) -> bool:
    """Whether a message closes its thread: the word RESOLVED, not negated, in a `completion`."""
    if message.type is not MessageType.COMPLETION:
        return False
    plain = message.content.translate(_EMPHASIS)
    return _CLOSES.search(_NEGATED.sub("", plain)) is not None


def thread_of(messages: Iterable[Message]) -> Thread | None:
    """The thread that these messages are, which share a thread id; None where there are none.

    A closing note counts if it comes from whom the thread belongs to; a later message reopens it.
    """
    ordered = sorted(messages, key=lambda message: message.timestamp)
    if not ordered:
        return None
    first, last = ordered[0], ordered[-1]
    names = (name for message in ordered for name in (message.sender, message.recipient))
    thread = Thread(
        id=first.thread_id,
        creator=first.sender,
        broadcast=first.is_broadcast,
        participants=tuple(dict.fromkeys(name for name in names if name != EVERYONE)),
        status=ThreadStatus.OPEN,
        messages=len(ordered),
        started=first.timestamp,
        updated=last.timestamp,
    )
    closed = says_resolved(last) and thread.may_be_resolved_by(last.sender)
    return evolve(thread, status=ThreadStatus.RESOLVED) if closed else thread
