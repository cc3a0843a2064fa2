"""Small builders: what a test does not say about a value is of no interest to it.

`Story` tells a broker what happens and keeps what it answers, so that a test reads as a history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from agenthub_core import (
    Action,
    Agent,
    Broker,
    Event,
    Fault,
    Message,
    MessageType,
    Notify,
    Outcome,
    Policy,
    Receipt,
    RelayError,
    Session,
    Severity,
    StoreError,
    Turn,
    TurnState,
)
from agenthub_core.hub import Task
from agenthub_core.protocol import (
    Inject,
    Injected,
    InjectFailed,
    ListingFailed,
    MessageArrived,
    NotInjected,
    SessionFreed,
    SessionsListed,
    Settle,
    Settled,
    SettleFailed,
    Tick,
    TurnSeen,
)
from agenthub_core.testing import NOON

FAULT = Fault(field="content", found="''", expected="text")
Actions = tuple[Action, ...]
Kind = TypeVar("Kind")


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def message(**fields: Any) -> Message:
    """From alice to bob, written at noon."""
    defaults: dict[str, Any] = {
        "id": "m1",
        "sender": "alice",
        "recipient": "bob",
        "type": MessageType.CONTEXT,
        "content": "Hello",
        "thread_id": "t1",
        "timestamp": NOON,
    }
    return Message(**(defaults | fields))


def session(slug: str = "bob", **fields: Any) -> Session:
    """A session in which the agent `slug` works; active at noon."""
    defaults: dict[str, Any] = {
        "id": f"ses_{slug}",
        "slug": slug,
        "directory": f"/projects/{slug}",
        "created": NOON,
        "updated": NOON,
    }
    return Session(**(defaults | fields))


def agent(name: str = "bob", **fields: Any) -> Agent:
    """An agent of an earlier run, at work in `ses_<name>`."""
    defaults: dict[str, Any] = {
        "id": name,
        "session_id": f"ses_{name}",
        "slug": name,
        "last_seen": NOON,
    }
    return Agent(**(defaults | fields))


def of(kind: type[Kind], actions: Iterable[object]) -> list[Kind]:
    """The actions of one kind, in order."""
    return [action for action in actions if isinstance(action, kind)]


def topics(actions: Iterable[Action]) -> list[str]:
    """What a person was told, without the details that only matter when debugging."""
    return [notice.topic for notice in of(Notify, actions) if notice.severity is not Severity.DEBUG]


def outcomes(actions: Iterable[Action]) -> list[tuple[str, Outcome]]:
    """What is to be settled, and how."""
    return [(settle.settlement.key, settle.settlement.outcome) for settle in of(Settle, actions)]


def injected(actions: Iterable[Action]) -> list[tuple[str, str]]:
    """What is to be injected, and for whom."""
    return [(inject.key, inject.recipient) for inject in of(Inject, actions)]


class Story:
    """A broker, the time it is, and all that it has asked for.

    With `here`, the first listing has been answered: these sessions are there.
    """

    def __init__(
        self,
        *here: str,
        policy: Policy | None = None,
        agents: Sequence[Agent] = (),
        listed: bool | None = None,
        **more: Any,
    ) -> None:
        self.policy = policy or Policy()
        self.broker = Broker(self.policy, agents=agents, **more)
        self.now = NOON
        self.log: list[Action] = []
        if listed if listed is not None else here:
            self.tell(Tick())
            self.lists(*map(session, here))

    def tell(self, event: Event) -> Actions:
        actions = self.broker.handle(event, self.now)
        self.log += actions
        return actions

    def wait(self, duration: timedelta) -> Actions:
        """Time passes, and nothing else happens."""
        return self.wait_until(self.now + duration)

    def goes_on(self) -> Actions:
        """To the next moment at which the broker wants to be woken."""
        due = self.broker.next_deadline()
        assert due is not None
        return self.wait_until(max(self.now, due))

    def wait_until(self, when: datetime) -> Actions:
        actions: Actions = ()
        while (due := self.broker.next_deadline()) is not None and due <= when:
            self.now = max(self.now, due)
            actions += self.tell(Tick())
        self.now = when
        return actions

    def arrives(self, *messages: Message, recovered: bool = False) -> Actions:
        """Each under its id as key."""
        actions: Actions = ()
        for each in messages:
            actions += self.tell(MessageArrived(key=each.id, message=each, recovered=recovered))
        return actions

    def lists(self, *sessions: Session) -> Actions:
        return self.tell(SessionsListed(sessions=sessions))

    def lists_nothing(self, error: RelayError) -> Actions:
        return self.tell(ListingFailed(error=error))

    def holds(self, key: str = "m1", recipient: str = "bob") -> Actions:
        receipt = Receipt(prompt_id="p", session_id=f"ses_{recipient}")
        return self.tell(Injected(key=key, recipient=recipient, receipt=receipt))

    def fails(self, error: RelayError, key: str = "m1", recipient: str = "bob") -> Actions:
        return self.tell(InjectFailed(key=key, recipient=recipient, error=error))

    def is_not_tried(self, key: str = "m1", recipient: str = "bob") -> Actions:
        """One before it, into the same session, has failed."""
        return self.tell(NotInjected(key=key, recipient=recipient))

    def is_freed(self, slug: str = "bob") -> Actions:
        return self.tell(SessionFreed(session_id=f"ses_{slug}"))

    def settled(self, key: str = "m1") -> Actions:
        return self.tell(Settled(key=key))

    def settle_fails(self, error: StoreError, key: str = "m1") -> Actions:
        return self.tell(SettleFailed(key=key, error=error))

    def turn(self, state: TurnState, slug: str = "bob", **fields: Any) -> Actions:
        turn = Turn(session_id=f"ses_{slug}", state=state, prompt_id="p", **fields)
        return self.tell(TurnSeen(turn=turn))


class Later:
    """An executor that keeps its tasks until the test runs them: workers without threads."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def submit(self, task: Task) -> None:
        self.tasks.append(task)

    def run(self, index: int = 0) -> None:
        self.tasks.pop(index)()
