"""A message's life in the spool, as a table.

For each of its recipients a message is on a course:

                   DISPATCH              RECEIPT
        WAITING ─────────────▶ INJECTING ────────▶ HELD
           │  ◀───────────────     │
        GIVE_UP     FAILURE     GIVE_UP
           └──────────▶ DEAD ◀─────┘

When every course has ended, in HELD or DEAD, the message can be settled. When a step is taken, and
what it leads to, is the broker's business.
"""

from __future__ import annotations

import enum
from datetime import datetime

from attrs import define, field

from agenthub_core.channels import Place
from agenthub_core.model import Delivery, Message, Outcome, Settlement


class Stage(enum.Enum):
    """Where a message stands on its way to one recipient."""

    WAITING = "waiting"
    INJECTING = "injecting"
    HELD = "held"
    DEAD = "dead"


class Step(enum.Enum):
    """What can happen to it there."""

    DISPATCH = "dispatch"
    RECEIPT = "receipt"
    FAILURE = "failure"
    GIVE_UP = "give up"


LIFE: dict[tuple[Stage, Step], Stage] = {
    (Stage.WAITING, Step.DISPATCH): Stage.INJECTING,
    (Stage.WAITING, Step.GIVE_UP): Stage.DEAD,
    (Stage.INJECTING, Step.RECEIPT): Stage.HELD,
    (Stage.INJECTING, Step.FAILURE): Stage.WAITING,
    (Stage.INJECTING, Step.GIVE_UP): Stage.DEAD,
}
"""Any other step is a bug in whoever drives the broker: it raises KeyError."""


@define
class Course:
    """A message on its way to one recipient."""

    recipient: str
    stage: Stage = Stage.WAITING
    session_id: str | None = None
    held_at: datetime | None = None
    attempts: int = 0
    reason: str = ""
    """What the last attempt failed with, or why there will be none."""
    rejected: bool = False

    def step(self, step: Step) -> None:
        self.stage = LIFE[self.stage, step]

    @property
    def ended(self) -> bool:
        return self.stage in (Stage.HELD, Stage.DEAD)

    def result(self) -> Delivery:
        return Delivery(
            recipient=self.recipient,
            session_id=self.session_id,
            held_at=self.held_at,
            attempts=self.attempts,
            reason=self.reason,
        )


@define
class Pending:
    """A message that is not settled. One without courses has no recipient yet."""

    key: str
    message: Message
    arrival: int
    deadline: datetime
    recovered: bool
    courses: dict[str, Course] = field(factory=dict)
    settlement: Settlement | None = None

    @property
    def place(self) -> Place:
        """Where it stands among the messages for one recipient."""
        message = self.message
        return message.priority.rank, message.timestamp, self.arrival, self.key

    @property
    def untouched(self) -> bool:
        """Whether nothing is under way or decided, so that it may still be taken back."""
        return self.settlement is None and all(
            course.stage is Stage.WAITING for course in self.courses.values()
        )

    @property
    def tried(self) -> bool:
        """Whether a session may hold it: an attempt that failed may have come through."""
        return self.recovered or any(course.attempts for course in self.courses.values())

    def end(self) -> tuple[Outcome, str] | None:
        """The outcome and the reason, once every course has ended."""
        courses = tuple(self.courses.values())
        if not courses or not all(course.ended for course in courses):
            return None
        dead = [course for course in courses if course.stage is Stage.DEAD]
        if not dead:
            return Outcome.DELIVERED, ""
        rejected = any(course.rejected for course in dead)
        return (Outcome.REJECTED if rejected else Outcome.EXPIRED), dead[0].reason
