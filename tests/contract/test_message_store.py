"""What every `MessageStore` promises (`agenthub_core.ports`), shown on each of them.

A store of your own runs this too: subclass `MessageStoreContract` and override `surroundings`.
"""

from __future__ import annotations

import json
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from agenthub_adapters.codec import encode_message
from agenthub_adapters.spool import FileSpool
from agenthub_core import (
    EVERYONE,
    Agent,
    Delivery,
    Fault,
    Malformed,
    Message,
    MessageStore,
    MessageType,
    Outcome,
    Query,
    Reading,
    Settlement,
    StoreUnreadable,
    StoreUnwritable,
)
from agenthub_core.testing import NOON, ManualClock, MemoryStore
from tests.unit.builders import agent, message

FAULT = Fault(field="to", found="nothing", expected="a value: this field is required")
MINUTE = timedelta(minutes=1)
MOMENT = timedelta(microseconds=1)


SAID: dict[str, Any] = {
    "role": "Writes the API",
    "capabilities": ("python", "SQL"),
    "collaborates_with": ("carol",),
    "program": "claude-code",
}
"""What an agent says of itself."""


class Surroundings(ABC):
    """A store, and what happens around it that its port does not tell of."""

    store: MessageStore

    @abstractmethod
    def overwrite(self, key: str, written: Message) -> None:
        """A sender writes under a key that is there already."""

    @abstractmethod
    def spoil(self, key: str) -> None:
        """What lies under the key is no message any more."""

    @abstractmethod
    def put_aside(self) -> Iterable[str]:
        """The faults that were noted with what was put into quarantine."""

    @abstractmethod
    def attended(self) -> AbstractContextManager[None]:
        """Meanwhile a hub is at work on the store."""

    @abstractmethod
    def break_down(self) -> None:
        """From now on nothing can be read or written."""


def settlement(key: str, settled: Message, **fields: Any) -> Settlement:
    """Delivered at noon."""
    defaults: dict[str, Any] = {"outcome": Outcome.DELIVERED, "at": NOON}
    return Settlement(key=key, message=settled, **(defaults | fields))


class MessageStoreContract:
    @pytest.fixture
    def surroundings(self) -> Surroundings:
        raise NotImplementedError

    @pytest.fixture
    def store(self, surroundings: Surroundings) -> MessageStore:
        return surroundings.store

    # ------------------------------------------------------------------- waiting and reading

    def test_an_empty_store_has_no_keys_and_no_past(self, store: MessageStore) -> None:
        assert list(store.keys()) == []
        assert list(store.settled("m1")) == []
        assert list(store.agents()) == []

    def test_what_was_put_is_read_as_it_was(self, store: MessageStore) -> None:
        written = message(content="Grüße\n\x00 \U0001f43c", extra={"metadata": {"n": [1, None]}})

        key = store.put(written)

        assert store.read(key) == written
        assert list(store.keys()) == [key]

    def test_reading_changes_nothing(self, store: MessageStore) -> None:
        key = store.put(message())

        assert store.read(key) == store.read(key) == message()
        assert list(store.keys()) == [key]

    def test_nothing_is_read_where_nothing_waits(self, store: MessageStore) -> None:
        store.put(message())
        assert store.read("nobody-wrote-this.json") is None

    def test_nothing_that_is_kept_beside_a_message_takes_the_place_of_what_it_says(
        self, store: MessageStore
    ) -> None:
        theirs = {"from": "human", "to": "all", "read": True, "metadata": 1}
        key = store.put(message(extra=theirs))

        reading = store.read(key)

        assert isinstance(reading, Message)
        assert (reading.sender, reading.recipient, reading.read) == ("alice", "bob", False)
        assert reading.extra["metadata"] == 1

    def test_a_message_put_twice_waits_once(self, store: MessageStore) -> None:
        assert store.put(message()) == store.put(message())
        assert len(store.keys()) == 1

    def test_an_id_used_twice_makes_two_messages(self, store: MessageStore) -> None:
        first, second = message(content="first"), message(content="second")

        keys = [store.put(first), store.put(second)]

        assert set(store.keys()) == set(keys)
        assert [store.read(key) for key in keys] == [first, second]
        assert [store.put(first), store.put(second)] == keys

    def test_a_time_is_kept_to_the_millisecond_whatever_its_zone(self, store: MessageStore) -> None:
        berlin = timezone(timedelta(hours=1))
        fine = message(timestamp=NOON.astimezone(berlin) + timedelta(microseconds=1999))

        key = store.put(fine)

        assert store.read(key) == message(timestamp=NOON + timedelta(milliseconds=1))
        assert store.put(fine) == key

    def test_a_verified_message_is_so_wherever_it_is_read(self, store: MessageStore) -> None:
        ours, theirs = message(id="ours", verified=True), message(id="theirs")
        keys = {store.put(each): each for each in (ours, theirs)}

        assert {key: verified(store.read(key)) for key in keys} == {
            key: each is ours for key, each in keys.items()
        }
        for key, each in keys.items():
            store.mark_read(key, each)
            assert verified(store.read(key)) is (each is ours), "a mark does not end by reading"
            store.settle([settlement(key, each)])
            assert verified(store.read(key)) is (each is ours), "what was settled was not read"
            reading = store.read(key)
            assert isinstance(reading, Message)
            store.settle([settlement(key, reading)])
        assert list(store.keys()) == []
        found = {
            each.message.id: each.message.verified for each in store.history(Query(unread=False))
        }
        assert found == {"ours": True, "theirs": False}
        assert [each.message.verified for each in store.settled("ours")] == [True]
        assert [each.message.verified for each in store.settled("theirs")] == [False]

    def test_what_is_marked_read_in_the_archive_stays_verified(self, store: MessageStore) -> None:
        written = message(verified=True)
        store.settle([settlement(store.put(written), written)])

        store.mark_read("m1", written)

        (found,) = store.settled("m1")
        assert (found.message.read, found.message.verified) == (True, True)

    def test_what_others_wrote_is_not_verified_whatever_it_says(
        self, surroundings: Surroundings
    ) -> None:
        store = surroundings.store
        key = store.put(message(verified=True))

        surroundings.overwrite(key, message(content="Obey", verified=True))

        assert store.read(key) == message(content="Obey")
        assert not verified(store.read(key))

    @pytest.mark.parametrize("first", [True, False])
    def test_a_message_put_twice_is_verified_if_either_was(
        self, store: MessageStore, first: bool
    ) -> None:
        keys = {store.put(message(verified=mark)) for mark in (first, not first)}

        assert keys == set(store.keys())
        assert [verified(store.read(key)) for key in keys] == [True]

    def test_what_many_threads_put_at_once_is_all_there(self, store: MessageStore) -> None:
        threads = [
            threading.Thread(
                target=lambda name: [store.put(message(id=f"{name}-{n}")) for n in range(5)],
                args=[name],
            )
            for name in "abcd"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        readings = list(map(store.read, store.keys()))
        ids = sorted(reading.id for reading in readings if isinstance(reading, Message))
        assert ids == [f"{name}-{n}" for name in "abcd" for n in range(5)]

    # ----------------------------------------------------------------------------- settling

    def test_a_settled_message_stops_waiting_and_is_found_with_its_outcome(
        self, store: MessageStore
    ) -> None:
        written = message(extra={"metadata": {"ticket": 7}, "x-team": "blue"})
        key = store.put(written)

        store.settle(
            [
                settlement(
                    key,
                    written,
                    outcome=Outcome.EXPIRED,
                    deliveries=(
                        Delivery(recipient="bob", session_id="ses_1", held_at=NOON, attempts=2),
                        Delivery(recipient="carol", attempts=1, reason="no such session"),
                    ),
                    reason="its time to live ended",
                )
            ]
        )

        assert list(store.keys()) == []
        assert store.read(key) is None
        (found,) = store.settled("m1")
        assert found.message == written
        assert (found.outcome, found.at) == (Outcome.EXPIRED, NOON)
        assert found.reason == "its time to live ended"
        assert found.deliveries == (
            Delivery(recipient="bob", session_id="ses_1", held_at=NOON, attempts=2),
            Delivery(recipient="carol", attempts=1, reason="no such session"),
        )

    def test_only_what_is_settled_stops_waiting(self, store: MessageStore) -> None:
        ended, waiting = message(id="ended"), message(id="waiting")
        key, other = store.put(ended), store.put(waiting)

        store.settle([settlement(key, ended)])

        assert list(store.keys()) == [other]
        assert store.read(other) == waiting

    def test_several_are_settled_at_once(self, store: MessageStore) -> None:
        messages = [message(id=f"m{n}") for n in range(3)]

        store.settle([settlement(store.put(each), each) for each in messages])

        assert list(store.keys()) == []
        found = [store.settled(each.id)[0].message for each in messages]
        assert found == messages

    def test_what_is_settled_again_keeps_its_first_outcome(self, store: MessageStore) -> None:
        key = store.put(message())
        store.settle([settlement(key, message())])

        store.settle([settlement(key, message(), outcome=Outcome.EXPIRED, at=NOON + MINUTE)])

        assert [found.outcome for found in store.settled("m1")] == [Outcome.DELIVERED]

    def test_what_is_settled_again_is_read_if_it_was_read_by_now(self, store: MessageStore) -> None:
        key = store.put(message())
        store.mark_read(key, message())
        store.settle([settlement(key, message())])
        assert store.read(key) == message(read=True), "what was settled had not been read"

        store.settle([settlement(key, message(read=True), outcome=Outcome.READ, at=NOON + MINUTE)])

        first = settlement(key, message(read=True))
        (found,) = store.settled("m1")
        assert (found.message, found.outcome, found.at) == (first.message, first.outcome, first.at)
        assert list(store.history(Query(unread=True))) == []
        assert list(store.keys()) == []

    def test_what_was_read_stays_read_whatever_is_settled_again(self, store: MessageStore) -> None:
        key = store.put(message())
        store.settle([settlement(key, message())])
        store.mark_read(key, message())

        store.settle([settlement(key, message())])

        assert [found.message.read for found in store.settled("m1")] == [True]

    def test_of_messages_with_one_id_only_the_one_that_is_settled_again_is_read(
        self, store: MessageStore
    ) -> None:
        messages = [message(content=f"number {n}") for n in range(3)]
        for n, each in enumerate(messages):
            store.settle([settlement(store.put(each), each, at=NOON + n * MINUTE)])

        again = evolve(messages[1], read=True)
        store.settle([settlement(store.put(again), again, outcome=Outcome.READ)])

        read = [found.message.read for found in store.settled("m1")]
        assert read == [False, True, False]

    def test_a_settled_message_that_is_put_back_can_be_settled_again(
        self, store: MessageStore
    ) -> None:
        store.settle([settlement(store.put(message()), message())])

        key = store.put(message())
        assert store.read(key) == message()
        store.settle([settlement(key, message(), outcome=Outcome.EXPIRED, at=NOON + MINUTE)])

        assert list(store.keys()) == []
        assert [found.outcome for found in store.settled("m1")] == [Outcome.DELIVERED]

    def test_what_was_written_under_the_key_since_goes_on_waiting(
        self, surroundings: Surroundings
    ) -> None:
        store = surroundings.store
        key = store.put(message())
        surroundings.overwrite(key, message(content="On second thought"))

        store.settle([settlement(key, message())])

        assert list(store.keys()) == [key]
        assert store.read(key) == message(content="On second thought")
        assert [found.message for found in store.settled("m1")] == [message()]

    def test_an_id_used_again_and_again_is_found_oldest_first(self, store: MessageStore) -> None:
        messages = [message(content=f"number {n}") for n in range(4)]

        for n in (2, 0, 3, 1):
            key = store.put(messages[n])
            store.settle([settlement(key, messages[n], at=NOON + n * MINUTE)])

        assert [found.message for found in store.settled("m1")] == messages

    def test_an_id_that_begins_like_another_is_another(self, store: MessageStore) -> None:
        first, second = message(id="m1"), message(id="m1-2")

        store.settle([settlement(store.put(each), each) for each in (first, second)])

        assert [found.message for found in store.settled("m1")] == [first]
        assert [found.message for found in store.settled("m1-2")] == [second]

    def test_what_was_not_settled_is_not_found(self, store: MessageStore) -> None:
        store.put(message())
        assert list(store.settled("m1")) == []
        assert list(store.settled("../m1")) == []

    # ------------------------------------------------------------------------------ history

    def test_an_empty_store_has_no_history(self, store: MessageStore) -> None:
        store.put(message())
        assert list(store.history(Query())) == []

    def test_history_tells_all_that_is_kept_of_what_was_settled(self, store: MessageStore) -> None:
        written = message(content="Grüße", extra={"metadata": {"ticket": 7}})
        held = Delivery(recipient="bob", session_id="ses_1", held_at=NOON, attempts=1)
        dead = Delivery(recipient="carol", attempts=2, reason="no such session")
        key = store.put(written)
        store.settle(
            [
                settlement(
                    key,
                    written,
                    outcome=Outcome.EXPIRED,
                    at=NOON + MINUTE,
                    deliveries=(held, dead),
                    reason="too late",
                )
            ]
        )

        (found,) = store.history(Query())

        assert found == store.settled("m1")[0]
        assert (found.message, found.outcome, found.at) == (
            written,
            Outcome.EXPIRED,
            NOON + MINUTE,
        )
        assert (found.deliveries, found.reason) == ((held, dead), "too late")

    def test_history_begins_with_the_last_settled_however_old_the_message(
        self, store: MessageStore
    ) -> None:
        for name, written, ended in (("b", 0, 2), ("a", 2, 1), ("c", 1, 3)):
            each = message(id=name, timestamp=NOON + written * MINUTE)
            store.settle([settlement(store.put(each), each, at=NOON + ended * MINUTE)])

        assert told(store.history(Query())) == ["c", "b", "a"]

    @pytest.mark.parametrize("apart", [MOMENT, MINUTE], ids=str)
    @pytest.mark.parametrize("at_once", [True, False])
    def test_history_is_in_order_however_close_its_events(
        self, store: MessageStore, apart: timedelta, *, at_once: bool
    ) -> None:
        settlements = []
        for n, name in enumerate(("b", "d", "a", "c")):
            each = message(id=name)
            settlements.append(settlement(store.put(each), each, at=NOON + n * apart))

        if at_once:
            store.settle([settlements[2], settlements[0], settlements[3], settlements[1]])
        else:
            for each_settlement in settlements:
                store.settle([each_settlement])

        assert told(store.history(Query())) == ["c", "a", "d", "b"]

    @pytest.mark.parametrize(
        ("query", "accepted"),
        [
            (Query(), ["to-all", "read", "dead", "held"]),
            (Query(agent="bob"), ["to-all", "dead", "held"]),
            (Query(agent="carol"), ["to-all", "read", "dead"]),
            (Query(sender="carol"), ["dead"]),
            (Query(recipient="bob"), ["dead", "held"]),
            (Query(recipient=EVERYONE), ["to-all"]),
            (Query(thread_id="t2"), ["read"]),
            (Query(type=MessageType.ERROR), ["dead"]),
            (Query(outcomes=frozenset({Outcome.EXPIRED, Outcome.READ})), ["read", "dead"]),
            (Query(outcomes=frozenset()), []),
            (Query(unread=True), ["to-all", "dead", "held"]),
            (Query(text="GRÜSSE"), ["held"]),
            (Query(text='say "hi"\n'), ["read"]),
            (Query(text="k"), ["to-all", "dead"]),
            (Query(text="threadId"), []),
            (Query(since=NOON + MINUTE), ["to-all", "read"]),
            (Query(since=NOON + MINUTE + MOMENT), ["to-all"]),
            (Query(agent="bob", unread=True, since=NOON), ["to-all", "held"]),
            (Query(sender="bob"), []),
        ],
        ids=lambda value: "" if isinstance(value, list) else None,
    )
    def test_history_is_what_the_query_accepts(
        self, store: MessageStore, query: Query, accepted: list[str]
    ) -> None:
        archive = [
            (message(id="held", content="Viele Grüsse"), Outcome.DELIVERED),
            (
                message(
                    id="dead",
                    sender="carol",
                    type=MessageType.ERROR,
                    content="It is broKen",
                    timestamp=NOON - MINUTE,
                ),
                Outcome.EXPIRED,
            ),
            (
                message(
                    id="read",
                    recipient="carol",
                    thread_id="t2",
                    content='They SAY "Hi"\n\\',
                    timestamp=NOON + MINUTE,
                    read=True,
                ),
                Outcome.READ,
            ),
            (
                message(
                    id="to-all",
                    recipient=EVERYONE,
                    content="273 \u212a",
                    timestamp=NOON + 2 * MINUTE,
                ),
                Outcome.DELIVERED,
            ),
        ]
        for n, (each, outcome) in enumerate(archive):
            key = store.put(each)
            store.settle([settlement(key, each, outcome=outcome, at=NOON + n * MINUTE)])

        assert told(store.history(query)) == accepted

    def test_history_is_what_any_of_several_queries_accepts_each_once(
        self, store: MessageStore
    ) -> None:
        archive = [("a", "bob"), ("b", "carol"), ("c", "dora"), ("d", "bob")]
        for n, (name, recipient) in enumerate(archive):
            each = message(id=name, recipient=recipient)
            store.settle([settlement(store.put(each), each, at=NOON + n * MINUTE)])

        queries = Query(recipient="bob"), Query(recipient="carol"), Query(sender="alice", text="x")
        assert told(store.history(*queries)) == ["d", "b", "a"]
        assert told(store.history(Query(recipient="bob"), Query())) == ["d", "c", "b", "a"]
        assert told(store.history()) == []

    @pytest.mark.parametrize(
        "query",
        [  # what a shell passes for a byte that is no UTF-8
            Query(agent="\udcff"),
            Query(sender="\udcff"),
            Query(recipient="\udcff"),
            Query(thread_id="\udcff"),
            Query(text="\udcff"),
        ],
        ids=ascii,
    )
    def test_a_query_for_what_can_be_no_text_finds_nothing(
        self, store: MessageStore, query: Query
    ) -> None:
        store.settle([settlement(store.put(message()), message())])
        assert told(store.history(query)) == []

    def test_history_goes_on_while_messages_are_settled(self, store: MessageStore) -> None:
        for n, name in enumerate(("a", "b")):
            each = message(id=name)
            store.settle([settlement(store.put(each), each, at=NOON + n * MINUTE)])
        history = store.history(Query())
        assert next(history).message.id == "b"

        late = message(id="late")
        store.settle([settlement(store.put(late), late, at=NOON + 2 * MINUTE)])

        assert told(history) == ["a"]
        assert told(store.history(Query())) == ["late", "b", "a"]

    # ------------------------------------------------------------------------- marking read

    def test_what_waits_is_marked_read_and_nothing_else_of_it_changes(
        self, store: MessageStore
    ) -> None:
        written = message(content="Grüße", extra={"metadata": {"ticket": 7}})
        other = message(id="other")
        key, other_key = store.put(written), store.put(other)

        store.mark_read(key, written)

        assert store.read(key) == evolve(written, read=True)
        assert store.read(other_key) == other
        assert set(store.keys()) == {key, other_key}
        assert list(store.history(Query())) == []

    def test_what_was_settled_is_marked_read_and_nothing_else_of_it_changes(
        self, store: MessageStore
    ) -> None:
        written = message(extra={"metadata": {"ticket": 7}})
        held = Delivery(recipient="bob", session_id="ses_1", held_at=NOON, attempts=1)
        key = store.put(written)
        store.settle(
            [settlement(key, written, outcome=Outcome.EXPIRED, deliveries=(held,), reason="why")]
        )
        (before,) = store.settled("m1")

        store.mark_read(before.key, written)

        after = evolve(before, message=evolve(written, read=True))
        assert list(store.settled("m1")) == [after]
        assert list(store.history(Query())) == [after]
        assert list(store.history(Query(unread=True))) == []
        assert list(store.keys()) == []

    def test_what_is_settled_before_it_can_be_marked_is_marked_where_it_is(
        self, store: MessageStore
    ) -> None:
        key = store.put(message())
        reading = store.read(key)
        assert isinstance(reading, Message)
        store.settle([settlement(key, reading)])

        store.mark_read(key, reading)

        assert [found.message.read for found in store.settled("m1")] == [True]
        assert list(store.keys()) == []

    def test_marking_read_does_not_touch_what_was_written_under_the_key_since(
        self, surroundings: Surroundings
    ) -> None:
        store = surroundings.store
        key = store.put(message())
        store.settle([settlement(key, message())])
        later = message(content="On second thought")
        surroundings.overwrite(key, later)

        store.mark_read(key, message())

        assert store.read(key) == later
        assert [found.message.read for found in store.settled("m1")] == [True]

    def test_of_messages_with_one_id_only_the_one_that_was_read_is_marked(
        self, store: MessageStore
    ) -> None:
        messages = [message(content=f"number {n}") for n in range(4)]
        for n, each in enumerate(messages[:3]):
            store.settle([settlement(store.put(each), each, at=NOON + n * MINUTE)])
        store.put(messages[3])

        store.mark_read("m1", messages[1])

        read = [found.message.read for found in store.settled("m1")]
        assert read == [False, True, False]
        assert list(map(store.read, store.keys())) == [messages[3]]

    @pytest.mark.parametrize("apart", [MOMENT, MINUTE], ids=str)
    def test_history_keeps_its_order_when_messages_are_marked_read(
        self, store: MessageStore, apart: timedelta
    ) -> None:
        messages = [message(id=name) for name in "bca"]
        for n, each in enumerate(messages):
            store.settle([settlement(store.put(each), each, at=NOON + n * apart)])

        store.mark_read("b", messages[0])
        store.mark_read("a", messages[2])
        assert told(store.history(Query())) == ["a", "c", "b"]

        store.mark_read("c", messages[1])
        assert told(store.history(Query())) == ["a", "c", "b"]

    def test_marking_read_twice_is_marking_it_once(self, store: MessageStore) -> None:
        key = store.put(message())
        store.mark_read(key, message())
        store.mark_read(key, message())
        assert store.read(key) == message(read=True)

    def test_what_is_neither_waiting_nor_settled_cannot_be_marked_and_nothing_happens(
        self, surroundings: Surroundings
    ) -> None:
        store = surroundings.store
        store.mark_read("nobody-wrote-this.json", message())
        assert (list(store.keys()), list(store.settled("m1"))) == ([], [])

        key = store.put(message())
        surroundings.spoil(key)
        store.mark_read(key, message())
        assert isinstance(store.read(key), Malformed)
        assert list(store.settled("m1")) == []

        surroundings.overwrite(key, message(content="another"))
        store.mark_read(key, message())
        assert store.read(key) == message(content="another")

    # -------------------------------------------------------------------- when a hub began

    def test_when_a_hub_first_began_is_kept_to_the_millisecond(self, store: MessageStore) -> None:
        first = NOON + timedelta(microseconds=1_999)
        assert store.began(first) == NOON + timedelta(milliseconds=1)
        assert store.began(NOON + MINUTE) == NOON + timedelta(milliseconds=1)

    def test_a_hub_that_begins_anew_has_agents_and_messages_but_no_sessions(
        self, store: MessageStore
    ) -> None:
        bob = agent("bob", directory="/projects/bob")
        store.began(NOON)
        store.save_agent(bob)
        key = store.put(message())

        store.begin_anew(NOON + MINUTE)

        assert store.began(NOON + 2 * MINUTE) == NOON + MINUTE
        (known,) = store.agents()
        assert (known.id, known.session_id) == ("bob", None)
        assert store.read(key) == message()

    # --------------------------------------------------------------------------- who was told

    def test_the_sessions_that_were_told_who_they_are_are_known(self, store: MessageStore) -> None:
        assert set(store.oriented()) == set()
        for session_id in ("ses_bob", "ses_carol", "ses_bob"):
            store.save_oriented(session_id, NOON)
        assert set(store.oriented()) == {"ses_bob", "ses_carol"}

    def test_whom_each_session_of_the_coordinator_was_told_of_is_known(
        self, store: MessageStore
    ) -> None:
        assert dict(store.introduced()) == {}
        for session_id, name in (("ses_1", "bob"), ("ses_1", "carol"), ("ses_2", "bob")) * 2:
            store.save_introduced(session_id, name)
        told = {session_id: sorted(names) for session_id, names in store.introduced().items()}
        assert told == {"ses_1": ["bob", "carol"], "ses_2": ["bob"]}

    def test_a_hub_that_begins_anew_has_told_nobody(self, store: MessageStore) -> None:
        store.save_oriented("ses_bob", NOON)
        store.save_introduced("ses_1", "bob")
        store.begin_anew(NOON)
        assert set(store.oriented()) == set()
        assert dict(store.introduced()) == {}

    # ----------------------------------------------------------------------- who is at work

    def test_a_store_is_claimed_while_a_hub_is_at_work_on_it(
        self, surroundings: Surroundings
    ) -> None:
        store = surroundings.store
        assert not store.claimed()
        with surroundings.attended():
            assert store.claimed()
            assert store.claimed(), "looking changes nothing"
        assert not store.claimed()

    # --------------------------------------------------------------------------- quarantine

    def test_what_is_no_message_is_put_aside_with_its_fault(
        self, surroundings: Surroundings
    ) -> None:
        store = surroundings.store
        key = store.put(message())
        surroundings.spoil(key)
        assert isinstance(store.read(key), Malformed)

        store.quarantine(key, FAULT)

        assert list(store.keys()) == []
        assert store.read(key) is None
        assert list(surroundings.put_aside()) == [str(FAULT)]

    def test_a_message_is_not_put_aside_even_if_it_was_none_a_moment_ago(
        self, surroundings: Surroundings
    ) -> None:
        store = surroundings.store
        key = store.put(message())
        surroundings.spoil(key)
        surroundings.overwrite(key, message(content="now complete"))

        store.quarantine(key, FAULT)

        assert store.read(key) == message(content="now complete")
        assert list(surroundings.put_aside()) == []

    def test_where_nothing_waits_nothing_is_put_aside(self, surroundings: Surroundings) -> None:
        surroundings.store.quarantine("nobody-wrote-this.json", FAULT)
        assert list(surroundings.put_aside()) == []

    # ------------------------------------------------------------------------------- agents

    def test_agents_come_back_as_they_were_saved(self, store: MessageStore) -> None:
        bob = agent("bob", directory="/projects/bob")
        carol = agent("carol", session_id=None, slug="", directory="/projects/carol")

        store.save_agent(bob)
        store.save_agent(carol)

        assert by_id(store.agents()) == {"bob": bob, "carol": carol}

    def test_an_agent_saved_again_is_replaced(self, store: MessageStore) -> None:
        store.save_agent(agent("bob"))
        store.save_agent(agent("carol"))
        moved = agent("bob", session_id="ses_other", slug="other", last_seen=NOON + MINUTE)

        store.save_agent(moved)

        assert by_id(store.agents()) == {"bob": moved, "carol": agent("carol")}

    def test_one_agent_is_found_as_all_of_them_are(self, store: MessageStore) -> None:
        store.save_agent(agent("bob", directory="/projects/bob"))
        store.register_agent(agent("polly", **SAID))

        for known in store.agents():
            assert store.agent(known.id) == known
        assert store.agent("carol") is None

    def test_whether_a_session_gave_an_agent_its_name_is_known_when_that_is_gone(
        self, store: MessageStore
    ) -> None:
        store.save_agent(agent("bob"))
        store.register_agent(agent("bob", **SAID))
        store.save_agent(evolve(agent("bob"), session_id=None, slug=""))
        store.register_agent(agent("polly", **SAID))

        assert {each.id: each.named_by_session for each in store.agents()} == {
            "bob": True,
            "polly": False,
        }

    def test_an_agent_may_lose_its_session(self, store: MessageStore) -> None:
        store.save_agent(agent("bob"))
        gone = evolve(agent("bob"), session_id=None, slug="")

        store.save_agent(gone)

        assert list(store.agents()) == [gone]

    def test_who_registers_is_an_agent_without_a_session(self, store: MessageStore) -> None:
        polly = agent("polly", **SAID, session_id=None, slug="", directory="/projects/polly")

        store.register_agent(polly)
        store.register_agent(agent("quinn", directory="/projects/quinn"))

        quinn = agent("quinn", session_id=None, slug="", directory="/projects/quinn")
        assert by_id(store.agents()) == {"polly": polly, "quinn": quinn}

    def test_who_registers_again_says_all_of_itself_anew(self, store: MessageStore) -> None:
        polly = agent("polly", **SAID, session_id=None, slug="", directory="/projects/polly")
        store.register_agent(polly)
        later = NOON + MINUTE
        other = Agent(id="polly", directory="/moved", last_seen=later, capabilities=("sql",))

        store.register_agent(other)

        assert list(store.agents()) == [other]

    def test_who_registers_keeps_its_session_and_the_sessions_directory(
        self, store: MessageStore
    ) -> None:
        bob = agent("bob", slug="cosmic-panda", directory="/projects/bob")
        store.save_agent(bob)
        store.save_agent(agent("carol"))
        later = NOON + MINUTE

        store.register_agent(
            agent("bob", **SAID, session_id="x", slug="x", directory="/x", last_seen=later)
        )

        assert by_id(store.agents()) == {
            "bob": evolve(bob, **SAID, last_seen=later),
            "carol": agent("carol"),
        }

    def test_who_has_lost_its_session_registers_with_a_directory_of_its_own(
        self, store: MessageStore
    ) -> None:
        store.save_agent(agent("bob", directory="/projects/bob"))
        store.save_agent(agent("bob", session_id=None, slug="", directory="/projects/bob"))

        moved = agent("bob", **SAID, session_id=None, slug="", directory="/moved")
        store.register_agent(moved)

        assert list(store.agents()) == [moved]

    def test_an_agent_that_gets_a_session_keeps_what_it_said_of_itself(
        self, store: MessageStore
    ) -> None:
        store.register_agent(agent("bob", **SAID, directory="/projects/bob"))
        woken = agent("bob", directory="/session", last_seen=NOON + MINUTE)

        store.save_agent(woken)

        assert list(store.agents()) == [evolve(woken, **SAID)]

    def test_saving_an_agent_never_changes_what_it_said_of_itself(
        self, store: MessageStore
    ) -> None:
        store.register_agent(agent("bob", **SAID))
        store.save_agent(
            agent("bob", role="other", capabilities=("other",), collaborates_with=("other",))
        )
        store.save_agent(evolve(agent("bob"), session_id=None, slug=""))

        assert list(store.agents()) == [agent("bob", **SAID, session_id=None, slug="")]

    def test_a_new_agent_is_saved_with_what_is_said_of_it(self, store: MessageStore) -> None:
        store.save_agent(agent("bob", **SAID))
        assert list(store.agents()) == [agent("bob", **SAID)]

    # --------------------------------------------------------------------------- when broken

    @pytest.mark.parametrize(
        "read",
        [
            lambda store: store.keys(),
            lambda store: store.read("m1.json"),
            lambda store: store.settled("m1"),
            lambda store: list(store.history(Query())),
            lambda store: store.claimed(),
            lambda store: store.agents(),
            lambda store: store.agent("bob"),
            lambda store: store.introduced(),
        ],
        ids=["keys", "read", "settled", "history", "claimed", "agents", "agent", "introduced"],
    )
    def test_reading_a_broken_store_says_that_it_cannot_be_read(
        self, surroundings: Surroundings, read: Callable[[MessageStore], object]
    ) -> None:
        surroundings.break_down()
        with pytest.raises(StoreUnreadable):
            read(surroundings.store)

    @pytest.mark.parametrize(
        "write",
        [
            lambda store: store.put(message(id="m2")),
            lambda store: store.settle([settlement("m1.json", message())]),
            lambda store: store.quarantine("m1.json", FAULT),
            lambda store: store.mark_read("m1.json", message()),
            lambda store: store.save_agent(agent()),
            lambda store: store.register_agent(agent()),
            lambda store: store.began(NOON),
            lambda store: store.begin_anew(NOON),
            lambda store: store.save_oriented("ses_bob", NOON),
            lambda store: store.save_introduced("ses_1", "bob"),
        ],
        ids=[
            "put",
            "settle",
            "quarantine",
            "mark_read",
            "save_agent",
            "register_agent",
            "began",
            "begin_anew",
            "save_oriented",
            "save_introduced",
        ],
    )
    def test_writing_to_a_broken_store_says_that_it_cannot_be_written(
        self, surroundings: Surroundings, write: Callable[[MessageStore], object]
    ) -> None:
        surroundings.store.put(message())
        surroundings.break_down()
        with pytest.raises(StoreUnwritable):
            write(surroundings.store)


def verified(reading: Reading) -> bool:
    assert isinstance(reading, Message)
    return reading.verified


def told(history: Iterable[Settlement]) -> list[str]:
    return [found.message.id for found in history]


def by_id(agents: Iterable[Agent]) -> dict[str, Agent]:
    return {each.id: each for each in agents}


class _InMemory(Surroundings):
    def __init__(self) -> None:
        self.store: MemoryStore = MemoryStore()

    def overwrite(self, key: str, written: Message) -> None:
        self.store.overwrite(key, written)

    def spoil(self, key: str) -> None:
        self.store.put_malformed(key, FAULT)

    def put_aside(self) -> Iterable[str]:
        return map(str, self.store.quarantined.values())

    @contextmanager
    def attended(self) -> Iterator[None]:
        self.store.attended = True
        yield
        self.store.attended = False

    def break_down(self) -> None:
        self.store.broken = True


class TestMemoryStore(MessageStoreContract):
    @pytest.fixture
    def surroundings(self) -> Surroundings:
        return _InMemory()


class _OnFiles(Surroundings):
    """The clock is far ahead of the files' times, so whatever lies there is finished."""

    def __init__(self, root: Path) -> None:
        self._root = root
        spool = FileSpool(root, clock=ManualClock(NOON.replace(year=2100)))
        spool.prepare()
        self.store: FileSpool = spool

    def overwrite(self, key: str, written: Message) -> None:
        document = json.loads(encode_message(written)) | {"verified": written.verified}
        (self.store.messages / key).write_text(json.dumps(document))

    def spoil(self, key: str) -> None:
        (self.store.messages / key).write_bytes(b"{}")

    def put_aside(self) -> Iterable[str]:
        reasons = sorted((self.store.messages / "malformed").glob("*.reason"))
        return [path.read_text().rstrip("\n") for path in reasons]

    def attended(self) -> AbstractContextManager[None]:
        return FileSpool(self._root, clock=ManualClock()).claim()

    def break_down(self) -> None:
        shutil.rmtree(self._root)
        self._root.write_text("a file where the directory was")


class TestFileSpool(MessageStoreContract):
    @pytest.fixture
    def surroundings(self, tmp_path: Path) -> Surroundings:
        return _OnFiles(tmp_path / "hub")
