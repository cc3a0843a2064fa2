"""Every situation that a message can be in meets every event that can come then.

Nothing raises, what must hold in all stories holds in each, and the message still ends well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from agenthub_core import (
    EVERYONE,
    Event,
    Outcome,
    Policy,
    PromptInvalid,
    PromptNotHeld,
    Receipt,
    RelayError,
    RelayRefused,
    RelayUnreachable,
    SessionBusy,
    SessionUnknown,
    StoreUnreadable,
    StoreUnwritable,
    Turn,
    TurnFailed,
    TurnState,
)
from agenthub_core.protocol import (
    Injected,
    InjectFailed,
    ListingFailed,
    MalformedArrived,
    MessageArrived,
    MessageWithdrawn,
    Quarantined,
    SessionsListed,
    Settled,
    SettleFailed,
    StoreFailed,
    StoreRead,
    Tick,
    TurnSeen,
    TurnUnseen,
    UnreadableFound,
)
from tests.unit.builders import (
    FAULT,
    Actions,
    Story,
    injected,
    message,
    outcomes,
    seconds,
    session,
)

POLICY = Policy(workers=2)
PEOPLE = ("alice", "bob", "carol")
UNREACHABLE = RelayUnreachable("connection refused")
FULL = StoreUnwritable("no space left on the disk")


class Watched(Story):
    """Knows what is under way, and checks after each event what must hold in every story."""

    def __init__(self, *here: str) -> None:
        self.injecting: set[tuple[str, str]] = set()
        self.settling: dict[str, Outcome] = {}
        self.ended: list[tuple[str, Outcome]] = []
        super().__init__(*here, policy=POLICY)

    def tell(self, event: Event) -> Actions:
        if isinstance(event, Injected | InjectFailed):
            self.injecting.remove((event.key, event.recipient))
        elif isinstance(event, Settled | SettleFailed) and event.key in self.settling:
            outcome = self.settling.pop(event.key)
            if isinstance(event, Settled):
                self.ended.append((event.key, outcome))
        actions = super().tell(event)
        for key, recipient in injected(actions):
            assert recipient not in {busy for _, busy in self.injecting}
            assert key not in self.settling
            self.injecting.add((key, recipient))
        for key, outcome in outcomes(actions):
            assert key not in self.settling
            assert key not in {busy for busy, _ in self.injecting}
            self.settling[key] = outcome
        assert len(self.injecting) <= POLICY.workers
        assert self.broker.pending >= {key for key, _ in self.injecting} | self.settling.keys()
        return actions

    def ends_well(self) -> None:
        """Everybody is here, everything works, and time passes until no message is left."""
        while self.broker.pending:
            self.lists(*(session(name, updated=self.now) for name in PEOPLE))
            for key, recipient in sorted(self.injecting):
                self.holds(key, recipient)
            for key in sorted(self.settling):
                self.settled(key)
            self.goes_on()


def before_the_first_listing() -> Watched:
    story = Watched()
    story.arrives(message())
    return story


def for_nobody_known() -> Watched:
    story = Watched("alice")
    story.arrives(message())
    return story


def behind_another() -> Watched:
    story = Watched(*PEOPLE)
    story.arrives(message(id="m0"), message())
    return story


def injecting() -> Watched:
    story = Watched(*PEOPLE)
    story.arrives(message())
    return story


def after_a_failure() -> Watched:
    story = injecting()
    story.fails(UNREACHABLE)
    return story


def after_many_failures() -> Watched:
    story = injecting()
    while story.injecting:
        story.fails(UNREACHABLE)
        story.wait(seconds(0.8))
    return story


def for_a_busy_session() -> Watched:
    story = injecting()
    story.fails(SessionBusy("at work"))
    return story


def for_a_session_that_is_gone() -> Watched:
    story = injecting()
    story.fails(SessionUnknown("deleted"))
    return story


def while_the_relay_is_down() -> Watched:
    story = Watched(*PEOPLE)
    story.lists_nothing(UNREACHABLE)
    story.arrives(message())
    return story


def injecting_while_the_relay_is_down() -> Watched:
    story = injecting()
    story.lists_nothing(UNREACHABLE)
    return story


def overdue_while_injecting() -> Watched:
    story = injecting()
    story.wait(POLICY.message_ttl)
    return story


def a_broadcast_with_nobody_there() -> Watched:
    story = Watched("alice")
    story.arrives(message(recipient=EVERYONE))
    return story


def a_broadcast_under_way_to_all() -> Watched:
    story = Watched(*PEOPLE)
    story.arrives(message(recipient=EVERYONE))
    return story


def a_broadcast_that_one_holds() -> Watched:
    story = a_broadcast_under_way_to_all()
    story.holds(recipient="carol")
    return story


def a_broadcast_that_one_holds_and_one_waits_for() -> Watched:
    story = a_broadcast_that_one_holds()
    story.fails(UNREACHABLE, recipient="bob")
    return story


def settling() -> Watched:
    story = injecting()
    story.holds()
    return story


def to_be_settled_later() -> Watched:
    story = settling()
    story.settle_fails(FULL)
    return story


SITUATIONS: list[Callable[[], Watched]] = [
    before_the_first_listing,
    for_nobody_known,
    behind_another,
    injecting,
    after_a_failure,
    after_many_failures,
    for_a_busy_session,
    for_a_session_that_is_gone,
    while_the_relay_is_down,
    injecting_while_the_relay_is_down,
    overdue_while_injecting,
    a_broadcast_with_nobody_there,
    a_broadcast_under_way_to_all,
    a_broadcast_that_one_holds,
    a_broadcast_that_one_holds_and_one_waits_for,
    settling,
    to_be_settled_later,
]

ERRORS: list[RelayError] = [
    UNREACHABLE,
    RelayRefused("it wants a password"),
    SessionUnknown("deleted"),
    SessionBusy("at work"),
    PromptInvalid("too long"),
    PromptNotHeld("never stored"),
    TurnFailed("no such model"),
    RelayError("something else"),
]

AT_ANY_TIME: dict[str, Event] = {
    "the same again": MessageArrived(key="m1", message=message()),
    "a broadcast now": MessageArrived(key="m1", message=message(recipient=EVERYONE)),
    "other words": MessageArrived(key="m1", message=message(content="Other words")),
    "another recipient": MessageArrived(key="m1", message=message(recipient="carol")),
    "another message": MessageArrived(key="m2", message=message(id="m2", content="Hi")),
    "read by its recipient": MessageArrived(key="m1", message=message(read=True)),
    "withdrawn": MessageWithdrawn(key="m1"),
    "no message any more": MalformedArrived(key="m1", fault=FAULT),
    "not to be read any more": UnreadableFound(key="m1", reason="it is a link"),
    "nobody is listed": SessionsListed(sessions=()),
    "all are listed": SessionsListed(sessions=tuple(map(session, PEOPLE))),
    "the store is read": StoreRead(),
    "the store is not read": StoreFailed(error=StoreUnreadable("gone")),
    "another is quarantined": Quarantined(key="m2"),
    "another is settled": Settled(key="m2"),
    "nothing but time": Tick(),
    "time, beyond the deadline": Tick(),
    **{f"listing: {error!r}": ListingFailed(error=error) for error in ERRORS},
    **{
        f"turn: {state.value}": TurnSeen(turn=Turn(session_id="ses_bob", state=state))
        for state in TurnState
    },
    **{f"look: {e!r}": TurnUnseen(session_id="ses_bob", error=e) for e in ERRORS},
}
INJECTING: dict[str, Callable[[str, str], Event]] = {
    "held": lambda key, name: Injected(
        key=key, recipient=name, receipt=Receipt(prompt_id="p", session_id=f"ses_{name}")
    ),
    **{
        repr(error): lambda key, name, error=error: InjectFailed(  # type: ignore[misc]
            key=key, recipient=name, error=error
        )
        for error in ERRORS
    },
}
SETTLING: dict[str, Callable[[str], Event]] = {
    "settled": lambda key: Settled(key=key),
    "not settled": lambda key: SettleFailed(key=key, error=FULL),
}
MAY_END_OTHERWISE = {
    "read by its recipient": {Outcome.READ},
    "time, beyond the deadline": {Outcome.EXPIRED},
    repr(PromptInvalid("too long")): {Outcome.REJECTED},
}


def events(story: Watched, name: str) -> Iterable[Event]:
    """The events of that name that can come now; none where it cannot."""
    if name in AT_ANY_TIME:
        return [AT_ANY_TIME[name]]
    if name in INJECTING:
        return [INJECTING[name](key, recipient) for key, recipient in sorted(story.injecting)]
    return [SETTLING[name](key) for key in story.settling]


CASES = [
    pytest.param(situation, name, id=f"{situation.__name__}-{name}")
    for situation in SITUATIONS
    for name in (*AT_ANY_TIME, *INJECTING, *SETTLING)
    if events(situation(), name)
]


@pytest.mark.parametrize(("situation", "name"), CASES)
def test_every_situation_meets_every_event_and_ends_well(
    situation: Callable[[], Watched], name: str
) -> None:
    story = situation()
    overdue = situation is overdue_while_injecting
    for event in events(story, name):
        if name == "time, beyond the deadline":
            story.now += POLICY.message_ttl
        story.tell(event)
    withdrawn = name == "withdrawn" and not story.broker.knows("m1")
    story.ends_well()
    ends = [outcome for key, outcome in story.ended if key == "m1"]
    may_be = {Outcome.DELIVERED} | MAY_END_OTHERWISE.get(name, set())
    assert len(ends) == (0 if withdrawn else 1)
    assert set(ends) <= may_be | ({Outcome.EXPIRED} if overdue else set())


@pytest.mark.parametrize("situation", SITUATIONS)
def test_in_every_situation_the_message_is_on_its_way(situation: Callable[[], Watched]) -> None:
    story = situation()
    assert story.broker.knows("m1")
    assert story.ended == []
