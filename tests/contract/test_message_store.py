"""What every `MessageStore` promises (`agenthub_core.ports`), shown on each of them.

A store of your own runs this too: subclass `MessageStoreContract` and override `surroundings`.
"""

from __future__ import annotations

import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from agenthub_adapters.codec import encode_message
from agenthub_adapters.spool import FileSpool
from agenthub_core import (
    Agent,
    Delivery,
    Fault,
    Malformed,
    Message,
    MessageStore,
    Outcome,
    Settlement,
    StoreUnreadable,
    StoreUnwritable,
)
from agenthub_core.testing import NOON, ManualClock, MemoryStore
from tests.unit.builders import agent, message

FAULT = Fault(field="to", found="nothing", expected="a value: this field is required")
MINUTE = timedelta(minutes=1)


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

    def test_an_agent_may_lose_its_session(self, store: MessageStore) -> None:
        store.save_agent(agent("bob"))
        gone = evolve(agent("bob"), session_id=None, slug="")

        store.save_agent(gone)

        assert list(store.agents()) == [gone]

    # --------------------------------------------------------------------------- when broken

    @pytest.mark.parametrize(
        "read",
        [
            lambda store: store.keys(),
            lambda store: store.read("m1.json"),
            lambda store: store.settled("m1"),
            lambda store: store.agents(),
        ],
        ids=["keys", "read", "settled", "agents"],
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
            lambda store: store.save_agent(agent()),
        ],
        ids=["put", "settle", "save_agent"],
    )
    def test_writing_to_a_broken_store_says_that_it_cannot_be_written(
        self, surroundings: Surroundings, write: Callable[[MessageStore], object]
    ) -> None:
        surroundings.store.put(message())
        surroundings.break_down()
        with pytest.raises(StoreUnwritable):
            write(surroundings.store)


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
        (self.store.messages / key).write_bytes(encode_message(written))

    def spoil(self, key: str) -> None:
        (self.store.messages / key).write_bytes(b"{}")

    def put_aside(self) -> Iterable[str]:
        reasons = sorted((self.store.messages / "malformed").glob("*.reason"))
        return [path.read_text().rstrip("\n") for path in reasons]

    def break_down(self) -> None:
        shutil.rmtree(self._root)
        self._root.write_text("a file where the directory was")


class TestFileSpool(MessageStoreContract):
    @pytest.fixture
    def surroundings(self, tmp_path: Path) -> Surroundings:
        return _OnFiles(tmp_path / "hub")
