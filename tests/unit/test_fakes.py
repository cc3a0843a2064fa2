"""What only the fakes can do: faults, busy sessions and turns as a test orders them.

That they keep what the ports promise is shown in `tests/contract`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from agenthub_core import (
    Malformed,
    Outcome,
    Prompt,
    RelayError,
    RelayUnreachable,
    SessionBusy,
    SessionUnknown,
    Settlement,
    StoreError,
    StoreUnreadable,
    StoreUnwritable,
    TurnFailed,
    TurnState,
)
from agenthub_core.testing import NOON, ManualClock, MemoryRelay, MemoryStore
from tests.unit.builders import FAULT, agent, message, seconds, session


def prompt(**fields: Any) -> Prompt:
    defaults: dict[str, Any] = {
        "id": "p1",
        "session_id": "ses_bob",
        "text": "Hello",
        "written": NOON,
    }
    return Prompt(**(defaults | fields))


def settlement(key: str, **fields: Any) -> Settlement:
    defaults: dict[str, Any] = {"outcome": Outcome.DELIVERED, "at": NOON, "message": message()}
    return Settlement(key=key, **(defaults | fields))


# -------------------------------------------------------------------------------------- clock


def test_a_manual_clock_moves_only_when_it_is_told() -> None:
    clock = ManualClock()
    assert clock.now() == clock.now() == NOON
    assert clock.advance(seconds(5)) == clock.now() == NOON + seconds(5)


def test_a_manual_clock_does_not_run_backwards() -> None:
    with pytest.raises(ValueError, match="backwards"):
        ManualClock().advance(timedelta(microseconds=-1))


# -------------------------------------------------------------------------------------- store


WRITING: list[Callable[[MemoryStore], object]] = [
    lambda store: store.put(message(id="m9")),
    lambda store: store.settle([settlement("m1")]),
    lambda store: store.quarantine("bad", FAULT),
    lambda store: store.save_agent(agent()),
]
READING: list[Callable[[MemoryStore], object]] = [
    lambda store: store.keys(),
    lambda store: store.read("m1"),
]


def contents(store: MemoryStore) -> object:
    waiting = list(map(store.read, store.keys()))
    return waiting, store.archive, store.agents(), store.quarantined


@pytest.mark.parametrize(
    ("call", "error"),
    [(call, StoreUnwritable("full")) for call in WRITING]
    + [(call, StoreUnreadable("gone")) for call in READING],
)
def test_a_store_fails_once_for_each_fault_and_does_nothing_then(
    call: Callable[[MemoryStore], object], error: StoreError
) -> None:
    store = MemoryStore()
    store.put(message())
    store.put_malformed("bad", FAULT)
    before = contents(store)
    store.fail_with(error)
    with pytest.raises(type(error)):
        call(store)
    assert contents(store) == before
    call(store)


def test_reading_does_not_use_up_a_fault_in_writing() -> None:
    store = MemoryStore()
    store.fail_with(StoreUnwritable("full"))
    assert store.keys() == ()
    with pytest.raises(StoreUnwritable):
        store.put(message())


def test_two_messages_with_one_id_wait_under_two_keys() -> None:
    store = MemoryStore()
    one, other = message(content="one"), message(content="other")
    keys = [store.put(one), store.put(other), store.put(one)]
    assert keys[0] == keys[2] != keys[1]
    assert [store.read(key) for key in keys] == [one, other, one]


def test_the_archive_keeps_the_first_outcome_of_what_was_said() -> None:
    store = MemoryStore()
    store.settle([settlement("m1"), settlement("m1", outcome=Outcome.EXPIRED)])
    assert [each.outcome for each in store.archive] == [Outcome.DELIVERED]


def test_settled_messages_are_found_by_their_id_oldest_first() -> None:
    store = MemoryStore()
    later = settlement("a", at=NOON + seconds(1))
    earlier = settlement("b", message=message(content="other"))
    store.settle([later, earlier, settlement("c", message=message(id="m2"))])
    assert store.settled("m1") == [earlier, later]


def test_what_has_become_a_message_is_not_put_aside() -> None:
    store = MemoryStore()
    store.put(message())
    store.quarantine("m1", FAULT)
    store.quarantine("nothing", FAULT)
    assert store.read("m1") == message()
    assert store.quarantined == {}


def test_what_was_put_aside_and_what_was_withdrawn_do_not_wait() -> None:
    store = MemoryStore()
    store.put(message())
    store.put_malformed("bad", FAULT)
    assert store.read("bad") == Malformed(fault=FAULT)
    store.quarantine("bad", FAULT)
    store.withdraw("m1")
    assert store.keys() == ()
    assert store.quarantined == {"bad": FAULT}


# -------------------------------------------------------------------------------------- relay


def test_a_session_holds_a_prompt_once() -> None:
    relay = MemoryRelay([session("bob")])
    receipts = [relay.inject(prompt()), relay.inject(prompt(repeated=True))]
    assert receipts[0] == receipts[1]
    assert relay.held("ses_bob") == (prompt(),)
    assert relay.turns("ses_bob") == 1


def test_injections_fail_as_scripted_and_nothing_is_held_then() -> None:
    relay = MemoryRelay([session("bob")])
    relay.fail_with(RelayUnreachable("timed out"))
    with pytest.raises(RelayUnreachable):
        relay.inject(prompt())
    assert relay.held("ses_bob") == ()
    relay.inject(prompt())
    assert relay.held("ses_bob") == (prompt(),)


@pytest.mark.parametrize(
    "call",
    [
        lambda relay: relay.sessions(seconds(1)),
        lambda relay: relay.inject(prompt()),
        lambda relay: relay.turn("ses_bob"),
        lambda relay: relay.resume("ses_bob", "p1"),
    ],
)
def test_a_relay_that_is_down_answers_nothing(call: Callable[[MemoryRelay], object]) -> None:
    relay = MemoryRelay([session("bob")])
    relay.down = RelayUnreachable("connection refused")
    with pytest.raises(RelayUnreachable):
        call(relay)
    relay.down = None
    call(relay)


@pytest.mark.parametrize(
    "call",
    [
        lambda relay: relay.inject(prompt()),
        lambda relay: relay.turn("ses_bob"),
        lambda relay: relay.resume("ses_bob", "p1"),
    ],
)
def test_a_closed_session_is_unknown(call: Callable[[MemoryRelay], object]) -> None:
    relay = MemoryRelay([session("bob")])
    relay.close("ses_bob")
    with pytest.raises(SessionUnknown):
        call(relay)


def test_a_session_at_work_elsewhere_takes_nothing() -> None:
    relay = MemoryRelay([session("bob")])
    relay.work_elsewhere("ses_bob", busy=True)
    with pytest.raises(SessionBusy):
        relay.inject(prompt())
    relay.work_elsewhere("ses_bob", busy=False)
    relay.inject(prompt())
    assert relay.held("ses_bob") == (prompt(),)


def test_sessions_are_listed_latest_first() -> None:
    old, new = session("old"), session("new", updated=NOON + seconds(1))
    assert MemoryRelay([old, new]).sessions(seconds(1)) == [new, old]


def test_with_a_clock_only_sessions_that_were_active_lately_are_listed() -> None:
    clock = ManualClock(NOON + seconds(60))
    relay = MemoryRelay([session("old"), session("new", updated=clock.now())], clock=clock)
    assert [each.slug for each in relay.sessions(seconds(59))] == ["new"]
    assert [each.slug for each in relay.sessions(seconds(60))] == ["new", "old"]


def test_a_session_that_changes_keeps_what_it_holds() -> None:
    relay = MemoryRelay([session("bob")])
    relay.inject(prompt())
    changed = session("bob", updated=NOON + seconds(1))
    relay.open(changed)
    assert relay.sessions(seconds(1)) == [changed]
    assert relay.held("ses_bob") == (prompt(),)


def state(relay: MemoryRelay) -> tuple[TurnState, str, RelayError | None]:
    turn = relay.turn("ses_bob")
    return turn.state, turn.prompt_id, turn.error


def test_a_turn_is_answered_at_once_or_ends_as_the_test_says() -> None:
    relay = MemoryRelay([session("bob")])
    assert state(relay) == (TurnState.NONE, "", None)
    relay.inject(prompt())
    assert state(relay) == (TurnState.ANSWERED, "p1", None)
    relay.answering = False
    relay.inject(prompt(id="p2"))
    assert state(relay) == (TurnState.RUNNING, "p2", None)
    error = TurnFailed("no such model")
    relay.end_turn("ses_bob", TurnState.FAILED, error)
    assert state(relay) == (TurnState.FAILED, "p2", error)


@pytest.mark.parametrize(
    ("ended", "again", "runs"),
    [
        (TurnState.ABANDONED, lambda relay: relay.resume("ses_bob", "p1"), 2),
        (TurnState.ABANDONED, lambda relay: relay.inject(prompt(repeated=True)), 2),
        (TurnState.ABANDONED, lambda relay: relay.resume("ses_bob", "p0"), 1),
        (TurnState.ANSWERED, lambda relay: relay.resume("ses_bob", "p1"), 1),
    ],
)
def test_only_an_abandoned_turn_is_run_again(
    ended: TurnState, again: Callable[[MemoryRelay], object], runs: int
) -> None:
    relay = MemoryRelay([session("bob")])
    relay.inject(prompt())
    relay.end_turn("ses_bob", ended)
    again(relay)
    assert relay.turns("ses_bob") == runs


def test_a_session_without_prompts_has_no_turn_to_resume() -> None:
    relay = MemoryRelay([session("bob")])
    relay.end_turn("ses_bob", TurnState.ABANDONED)
    relay.resume("ses_bob", "p1")
    assert relay.turns("ses_bob") == 0
