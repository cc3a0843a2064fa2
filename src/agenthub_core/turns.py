"""Whether what was delivered is also answered.

A session holds a prompt from the receipt on, but the process that runs its turn may be killed. Then
nobody would answer, and the sender would wait for ever. So a delivery's turn is looked at until it
ended, and an abandoned one is run again, a few times. Looking is the relay's, when is the broker's.
"""

from __future__ import annotations

import enum

from attrs import define

from agenthub_core.model import Turn, TurnState

_LOOKS = 2
"""Looks in a row that must find a turn abandoned: one that is just starting looks the same."""


class Next(enum.Enum):
    """What is to be done after a look."""

    NOTHING = "nothing"
    LOOK_LATER = "look later"
    LOOK_SOON = "look soon"
    RESUME = "resume"
    REPORT_FAILURE = "report failure"
    REPORT_LOSS = "report loss"


@define
class _Watch:
    abandoned: int = 0
    resumed: int = 0


class Turns:
    """The sessions whose turn is awaited. `resumes` is how often one turn is run again."""

    def __init__(self, resumes: int) -> None:
        self._resumes = resumes
        self._watches: dict[str, _Watch] = {}

    def watch(self, session_id: str) -> None:
        """Something was delivered there."""
        self._watches.setdefault(session_id, _Watch())

    def forget(self, session_id: str) -> None:
        """The session is gone."""
        self._watches.pop(session_id, None)

    def seen(self, turn: Turn, *, delivering: bool) -> Next:
        """What a look found. `delivering`: another prompt is on its way there right now."""
        watch = self._watches.setdefault(turn.session_id, _Watch())
        if turn.state is TurnState.RUNNING:
            watch.abandoned = 0
            return Next.LOOK_LATER
        if turn.state is TurnState.ABANDONED:
            watch.abandoned += 1
            if watch.abandoned < _LOOKS or delivering:
                return Next.LOOK_SOON
            if watch.resumed < self._resumes:
                watch.abandoned = 0
                watch.resumed += 1
                return Next.RESUME
        self.forget(turn.session_id)
        if turn.state is TurnState.ABANDONED:
            return Next.REPORT_LOSS
        return Next.NOTHING if turn.error is None else Next.REPORT_FAILURE
