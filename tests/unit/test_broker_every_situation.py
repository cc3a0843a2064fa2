"""Every situation that a message can be in meets every event that can come then.

Nothing raises, what must hold in all stories holds in each, and the message still ends well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

import pytest

from agenthub_core import (
    EVERYONE,
    Event,
    Orientation,
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
from agenthub_core.model import Usage
from agenthub_core.protocol import (
    Injected,
    InjectFailed,
    ListingFailed,
    MalformedArrived,
    MessageArrived,
    MessageWithdrawn,
    NotInjected,
    Orient,
    Oriented,
    OrientFailed,
    Quarantined,
    SessionCompacted,
    SessionFreed,
    SessionsListed,
    Settled,
    SettleFailed,
    StoreFailed,
    StoreRead,
    Tick,
    TurnEnded,
    TurnSeen,
    TurnUnseen,
    UnreadableFound,
)
from agenthub_core.testing import NOON
from tests.unit.builders import (
    FAULT,
    Actions,
    Story,
    injected,
    message,
    of,
    outcomes,
    seconds,
    session,
)

ORIENTATION = Orientation()
POLICY = Policy(workers=2, batch=3, orientation=ORIENTATION)
PEOPLE = ("alice", "bob", "carol")
UNREACHABLE = RelayUnreachable("connection refused")
FULL = StoreUnwritable("no space left on the disk")


def told(name: str, error: RelayError | None = None) -> Event:
    """What became of telling a session who it is."""
    session_id = f"ses_{name}"
    if error is not None:
        return OrientFailed(recipient=name, session_id=session_id, error=error)
    return Oriented(recipient=name, receipt=Receipt(prompt_id="p", session_id=session_id))


class Watched(Story):
    """Knows what is under way, and checks after each event what must hold in every story."""

    def __init__(self, *here: str) -> None:
        self.injecting: dict[str, list[str]] = {}
        self.telling: set[str] = set()
        self.settling: dict[str, Outcome] = {}
        self.ended: list[tuple[str, Outcome]] = []
        super().__init__(*here, policy=POLICY)

    def tell(self, event: Event) -> Actions:
        if isinstance(event, Injected | InjectFailed | NotInjected):
            under_way = self.injecting[event.recipient]
            assert under_way.pop(0) == event.key, "the story is told in the wrong order"
            if not under_way:
                del self.injecting[event.recipient]
        elif isinstance(event, Oriented | OrientFailed):
            self.telling.remove(event.recipient)
        elif isinstance(event, Settled | SettleFailed) and event.key in self.settling:
            outcome = self.settling.pop(event.key)
            if isinstance(event, Settled):
                self.ended.append((event.key, outcome))
        actions = super().tell(event)
        for recipient, together in groupby(injected(actions), key=itemgetter(1)):
            keys = [key for key, _ in together]
            assert recipient not in {*self.injecting, *self.telling}, "two at once for a session"
            assert len(keys) <= POLICY.batch
            assert len(set(keys)) == len(keys)
            assert not self.settling.keys() & set(keys)
            self.injecting[recipient] = keys
        for orient in of(Orient, actions):
            busy = {*self.injecting, *self.telling}
            assert orient.recipient not in busy, "two at once for a session"
            self.telling.add(orient.recipient)
        for key, outcome in outcomes(actions):
            assert key not in self.settling
            assert key not in self.under_way
            self.settling[key] = outcome
        assert len(self.injecting) <= POLICY.workers
        assert self.broker.pending >= self.under_way | self.settling.keys()
        return actions

    @property
    def under_way(self) -> set[str]:
        return {key for keys in self.injecting.values() for key in keys}

    def ends_well(self) -> None:
        """Everybody is here, everything works, and time passes until no message is left."""
        while self.broker.pending:
            self.lists(*(session(name, updated=self.now) for name in PEOPLE))
            for recipient, keys in sorted(self.injecting.items()):
                for key in tuple(keys):
                    self.holds(key, recipient)
            for name in sorted(self.telling):
                self.tell(told(name))
            for key in sorted(self.settling):
                self.settled(key)
            self.goes_on()

    def takes_more(self) -> bool:
        """Whether, after all that, every worker is there for what is written next."""
        self.lists(*(session(name, updated=self.now) for name in PEOPLE))
        self.wait(POLICY.relay_rest)
        for name in sorted(self.telling):
            self.tell(told(name))
        self.arrives(
            message(id="next-1", timestamp=self.now),
            message(id="next-2", recipient="carol", timestamp=self.now),
        )
        return self.injecting == {"bob": ["next-1"], "carol": ["next-2"]}


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


def in_the_middle_of_a_batch() -> Watched:
    story = Watched()
    story.arrives(message(id="m0"), message(), message(id="m9"))
    story.lists(*map(session, PEOPLE))
    return story


def in_a_batch_of_which_one_is_held() -> Watched:
    story = in_the_middle_of_a_batch()
    story.holds("m0")
    return story


def in_a_batch_of_which_one_failed() -> Watched:
    story = in_the_middle_of_a_batch()
    story.fails(UNREACHABLE, "m0")
    return story


def in_a_batch_whose_session_is_gone() -> Watched:
    story = in_the_middle_of_a_batch()
    story.fails(SessionUnknown("deleted"), "m0")
    return story


def failed_in_a_batch() -> Watched:
    story = in_a_batch_of_which_one_is_held()
    story.fails(UNREACHABLE)
    return story


def not_tried() -> Watched:
    story = in_a_batch_of_which_one_failed()
    story.is_not_tried()
    story.is_not_tried("m9")
    return story


def not_tried_for_the_session_was_busy() -> Watched:
    story = in_the_middle_of_a_batch()
    story.fails(SessionBusy("at work"), "m0")
    story.is_not_tried()
    story.is_not_tried("m9")
    return story


def overdue_in_a_batch() -> Watched:
    story = in_the_middle_of_a_batch()
    story.wait(POLICY.message_ttl)
    return story


def while_its_session_is_told_who_it_is() -> Watched:
    story = Watched(*PEOPLE)
    story.wait(ORIENTATION.after)
    story.arrives(message())
    return story


def while_its_session_is_told_again() -> Watched:
    story = Watched(*PEOPLE)
    story.wait(ORIENTATION.after)
    for name in PEOPLE:
        story.tell(told(name))
    story.tell(SessionCompacted(session_id="ses_bob"))
    story.wait(ORIENTATION.after)
    story.arrives(message())
    return story


def to_be_told_again_after_its_session_was_busy() -> Watched:
    story = while_its_session_is_told_again()
    story.tell(told("bob", SessionBusy("at work")))
    story.fails(SessionBusy("at work"))
    return story


def freed_while_injecting() -> Watched:
    story = injecting()
    story.is_freed()
    return story


def a_broadcast_among_others() -> Watched:
    story = Watched()
    story.arrives(message(id="m0"), message(recipient=EVERYONE), message(id="m9"))
    story.lists(*map(session, PEOPLE))
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
    freed_while_injecting,
    while_its_session_is_told_who_it_is,
    while_its_session_is_told_again,
    to_be_told_again_after_its_session_was_busy,
    in_the_middle_of_a_batch,
    in_a_batch_of_which_one_is_held,
    in_a_batch_of_which_one_failed,
    in_a_batch_whose_session_is_gone,
    failed_in_a_batch,
    not_tried,
    not_tried_for_the_session_was_busy,
    overdue_in_a_batch,
    after_a_failure,
    after_many_failures,
    for_a_busy_session,
    for_a_session_that_is_gone,
    while_the_relay_is_down,
    injecting_while_the_relay_is_down,
    overdue_while_injecting,
    a_broadcast_with_nobody_there,
    a_broadcast_under_way_to_all,
    a_broadcast_among_others,
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
    **{f"freed: {name}": SessionFreed(session_id=f"ses_{name}") for name in (*PEOPLE, "nobody")},
    **{f"compacted: {n}": SessionCompacted(session_id=f"ses_{n}") for n in (*PEOPLE, "nobody")},
    **{
        f"a turn ended: {name}": TurnEnded(
            session_id=f"ses_{name}", began=NOON, ended=NOON, usage=Usage(), caused=True
        )
        for name in ("bob", "nobody")
    },
    **{f"listing: {error!r}": ListingFailed(error=error) for error in ERRORS},
    **{
        f"turn: {state.value}": TurnSeen(turn=Turn(session_id="ses_bob", state=state))
        for state in TurnState
    },
    **{f"look: {e!r}": TurnUnseen(session_id="ses_bob", error=e) for e in ERRORS},
}
INJECTING: dict[str, tuple[int, RelayError | None]] = {
    "held": (0, None),
    **{repr(error): (0, error) for error in ERRORS},
    **{f"held, then {error!r}": (1, error) for error in ERRORS},
    **{f"held, held, then {error!r}": (2, error) for error in ERRORS},
}
"""How many of those that went together are held, and what became of the next."""
TELLING: dict[str, RelayError | None] = {
    "told": None,
    **{f"not told: {error!r}": error for error in ERRORS},
}
SETTLING: dict[str, Callable[[str], Event]] = {
    "settled": lambda key: Settled(key=key),
    "not settled": lambda key: SettleFailed(key=key, error=FULL),
}
MAY_END_OTHERWISE = {
    "read by its recipient": {Outcome.READ},
    "time, beyond the deadline": {Outcome.EXPIRED},
    repr(PromptInvalid("too long")): {Outcome.REJECTED},
    f"held, then {PromptInvalid('too long')!r}": {Outcome.REJECTED},
    f"held, held, then {PromptInvalid('too long')!r}": {Outcome.REJECTED},
}


def events(story: Watched, name: str) -> Iterable[Event]:
    """The events of that name that can come now; none where it cannot."""
    if name in AT_ANY_TIME:
        return [AT_ANY_TIME[name]]
    if name in INJECTING:
        return [
            event
            for recipient, keys in sorted(story.injecting.items())
            for event in ending(recipient, keys, *INJECTING[name])
        ]
    if name in TELLING:
        return [told(recipient, TELLING[name]) for recipient in sorted(story.telling)]
    return [SETTLING[name](key) for key in story.settling]


def ending(
    recipient: str, keys: Sequence[str], held: int, error: RelayError | None
) -> Iterator[Event]:
    """So many of them are held, the next fails, and the others are not tried."""
    if held and held >= len(keys):
        return
    for place, key in enumerate(keys):
        if error is None or place < held:
            receipt = Receipt(prompt_id="p", session_id=f"ses_{recipient}")
            yield Injected(key=key, recipient=recipient, receipt=receipt)
        elif place == held:
            yield InjectFailed(key=key, recipient=recipient, error=error)
        else:
            yield NotInjected(key=key, recipient=recipient)


CASES = [
    pytest.param(situation, name, id=f"{situation.__name__}-{name}")
    for situation in SITUATIONS
    for name in (*AT_ANY_TIME, *INJECTING, *TELLING, *SETTLING)
    if events(situation(), name)
]


@pytest.mark.parametrize(("situation", "name"), CASES)
def test_every_situation_meets_every_event_and_ends_well(
    situation: Callable[[], Watched], name: str
) -> None:
    story = situation()
    overdue = situation in (overdue_while_injecting, overdue_in_a_batch)
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
    assert story.takes_more()


@pytest.mark.parametrize("situation", SITUATIONS)
def test_in_every_situation_the_message_is_on_its_way(situation: Callable[[], Watched]) -> None:
    story = situation()
    assert story.broker.knows("m1")
    assert story.ended == []
