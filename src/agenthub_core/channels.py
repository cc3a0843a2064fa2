"""What waits for whom, and who goes next.

A channel holds the messages for one recipient in order: urgent first, then by age. A few go at a
time, in that order; channels go side by side. A channel is open while its recipient has a session,
and may be held back until a time. What a message is, and what became of it, is the broker's.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import datetime

from attrs import define, field

Place = tuple[int, datetime, int, str]
"""Where a message stands in its channel: rank, time written, order of arrival, key."""


@define
class Channel:
    """The way to one recipient."""

    recipient: str
    session_id: str | None = None
    under_way: set[str] = field(factory=set)
    """The keys of the messages that are being injected."""
    freed: bool = False
    """Its session was freed since something was put under way there."""
    held_until: datetime | None = None
    failures: int = 0
    """Injections in a row that failed."""
    trouble: type[Exception] | None = None
    """What its last injections failed with, once the hub has said so."""
    _queue: list[Place] = field(factory=list)
    _waiting: dict[str, Place] = field(factory=dict)

    def put(self, place: Place) -> None:
        heapq.heappush(self._queue, place)
        self._waiting[place[-1]] = place

    def drop(self, key: str) -> None:
        self._waiting.pop(key, None)

    def head(self) -> Place | None:
        """What goes next."""
        while self._queue and self._waiting.get(self._queue[0][-1]) != self._queue[0]:
            heapq.heappop(self._queue)
        return self._queue[0] if self._queue else None

    def next(self, most: int) -> Iterator[str]:
        """Take out what goes next, in order, so many at most."""
        while most and (head := self.head()) is not None:
            most -= 1
            self.drop(head[-1])
            yield head[-1]

    def recovered(self) -> None:
        self.failures = 0
        self.held_until = None
        self.trouble = None


class Channels:
    """All channels. Choosing costs as much as there are open ones with something to send.

    Two channels may lead into one session: that takes one thing at a time, too.
    """

    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}
        self._ready: set[str] = set()
        self._engaged: dict[str, str | None] = {}

    def __getitem__(self, recipient: str) -> Channel:
        channel = self._channels.get(recipient)
        if channel is None:
            channel = self._channels[recipient] = Channel(recipient)
        return channel

    def put(self, recipient: str, place: Place) -> None:
        """Let a message wait for a recipient."""
        self[recipient].put(place)
        self._judge(recipient)

    def drop(self, recipient: str, key: str) -> None:
        """The message waits no more."""
        self[recipient].drop(key)
        self._judge(recipient)

    def connect(self, recipient: str, session_id: str | None) -> None:
        """The recipient has a session now, or has none any more."""
        self[recipient].session_id = session_id
        self._judge(recipient)

    def take(self, now: datetime, most: int) -> tuple[Channel, tuple[str, ...]] | None:
        """The channel that goes next, and the keys of its first messages, now under way there."""
        ready = (self._channels[name] for name in self._ready)
        candidates = [
            (head, channel.recipient, channel)
            for channel in ready
            if (channel.held_until is None or channel.held_until <= now)
            and not self.is_engaged(channel.session_id)
            and (head := channel.head()) is not None
        ]
        if not candidates:
            return None
        *_, channel = min(candidates)
        keys = tuple(channel.next(most))
        self.occupy(channel.recipient, *keys)
        return channel, keys

    def occupy(self, recipient: str, *keys: str) -> None:
        """Something is under way there; nothing goes beside it."""
        channel = self[recipient]
        channel.under_way.update(keys)
        channel.freed = False
        self._engaged[recipient] = channel.session_id
        self._judge(recipient)

    def arrived(self, recipient: str, key: str) -> Channel:
        """Something under way has come to an end, one or the other; the channel it was on."""
        channel = self[recipient]
        channel.under_way.discard(key)
        if not channel.under_way:
            self._engaged.pop(recipient, None)
        self._judge(recipient)
        return channel

    def into(self, session_id: str) -> list[Channel]:
        """The channels that lead into a session."""
        return [each for each in self._channels.values() if each.session_id == session_id]

    def is_engaged(self, session_id: str | None) -> bool:
        """Whether something is under way into that session, by whichever channel."""
        return session_id in self._engaged.values()

    def session_of(self, recipient: str) -> str | None:
        """Where the channel leads, if anywhere."""
        channel = self._channels.get(recipient)
        return None if channel is None else channel.session_id

    def is_idle(self, recipient: str) -> bool:
        """Whether nothing waits for the recipient, and nothing is under way."""
        channel = self._channels.get(recipient)
        return channel is None or not (channel.under_way or channel.head())

    def waiting(self) -> Iterator[str]:
        """The recipients that something waits for."""
        return (name for name, channel in self._channels.items() if channel.head() is not None)

    def release(self) -> list[Channel]:
        """Hold no channel back any more; those that were."""
        held = [channel for channel in self._channels.values() if channel.held_until is not None]
        for channel in held:
            channel.held_until = None
        return held

    def _judge(self, recipient: str) -> None:
        channel = self._channels[recipient]
        if not (channel.head() or channel.under_way or channel.session_id):
            del self._channels[recipient]  # nobody waits there: forget it, so names cost nothing
            self._ready.discard(recipient)
        elif channel.session_id and not channel.under_way and channel.head() is not None:
            self._ready.add(recipient)
        else:
            self._ready.discard(recipient)
