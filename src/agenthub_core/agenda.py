"""What is to happen when: named appointments, each at most once.

The broker keeps one, so that it can say when it next wants to be woken. Knows nothing of clocks.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from datetime import datetime
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)

_SLACK = 64  # cancelled appointments that may lie around before the heap is made anew


class Agenda(Generic[Name]):
    """Appointments by name; all operations cost the logarithm of their number."""

    def __init__(self) -> None:
        self._when: dict[Name, datetime] = {}
        self._heap: list[tuple[datetime, int, Name]] = []
        self._count = 0

    def set(self, name: Name, when: datetime) -> None:
        """Make an appointment, or move the one of that name."""
        self._when[name] = when
        self._count += 1  # keeps the order of equal times, and names out of comparisons
        heapq.heappush(self._heap, (when, self._count, name))

    def cancel(self, name: Name) -> None:
        """Forget an appointment; nothing happens where there is none."""
        self._when.pop(name, None)

    def __contains__(self, name: Name) -> bool:
        return name in self._when

    def next(self) -> datetime | None:
        """When the earliest appointment is."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: datetime) -> Name | None:
        """Take out the earliest appointment whose time has come."""
        self._drop_stale()
        if not self._heap or self._heap[0][0] > now:
            return None
        name = heapq.heappop(self._heap)[2]
        del self._when[name]
        return name

    def _drop_stale(self) -> None:
        if len(self._heap) > 2 * len(self._when) + _SLACK:
            self._heap = [entry for entry in self._heap if self._when.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
        while self._heap and self._when.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
