"""Who wrote how much lately, and whether that is too much. What becomes of it is the broker's."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from agenthub_core.model import COORDINATOR, HUB, HUMAN
from agenthub_core.policies import RateLimit

UNLIMITED = frozenset({HUMAN, HUB, COORDINATOR})
"""Who may write as often as they like."""

TRANSIT = timedelta(seconds=2)
"""How long a message may take to arrive and still count when it was written, which is when its
sender asked whether it may write: milliseconds are usual, 2 s are for a machine that is busy."""


class Senders:
    """When each sender wrote, as far back as the limit looks."""

    def __init__(self, limit: RateLimit | None, written: Iterable[tuple[str, datetime]]) -> None:
        self._limit = limit
        self._written: dict[str, list[datetime]] = {}
        for sender, when in written:
            self._written.setdefault(sender, []).append(when)

    def admit(self, sender: str, when: datetime) -> timedelta:
        """Note that somebody writes; how long they should have waited, zero if not at all.

        What they should not have written does not count against them.
        """
        if self._limit is None or sender in UNLIMITED:
            return timedelta(0)
        known = self._written.get(sender, [])
        written = [each for each in known if when - each <= self._limit.horizon]
        wait = self._limit.wait(written, when)
        if not wait:
            written.append(when)
        self._written[sender] = written
        return wait
