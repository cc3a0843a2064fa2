"""How a message is found by its name. What else is found is told with the gateway."""

from __future__ import annotations

import pytest

from agenthub_core import Outcome, Records, RequestRefused, Settlement
from agenthub_core.testing import NOON, MemoryStore
from tests.unit.builders import message


@pytest.fixture
def store() -> MemoryStore:
    """One message waits, two are settled."""
    store = MemoryStore()
    for name in ("k3v9", "k3w1"):
        settled = message(id=name)
        store.settle(
            [Settlement(key=store.put(settled), message=settled, outcome=Outcome.READ, at=NOON)]
        )
    store.put(message(id="k4"))
    return store


@pytest.mark.parametrize(("name", "found"), [("k3v9", "k3v9"), ("k3v", "k3v9"), ("k4", "k4")])
def test_a_message_is_found_by_the_beginning_of_its_id(
    store: MemoryStore, name: str, found: str
) -> None:
    assert [entry.message.id for entry in Records(store).look_up(name)] == [found]


def test_a_whole_id_is_no_beginning_of_another(store: MemoryStore) -> None:
    store.put(message(id="k4-more"))
    assert [entry.message.id for entry in Records(store).look_up("k4")] == ["k4"]


def test_where_several_begin_so_they_are_named(store: MemoryStore) -> None:
    with pytest.raises(RequestRefused, match=r"2 messages begin with 'k3': k3v9, k3w1$"):
        Records(store).look_up("k3")


def test_where_many_begin_so_a_few_are_named(store: MemoryStore) -> None:
    for number in range(4):
        store.put(message(id=f"k5-{number}"))
    with pytest.raises(RequestRefused, match=r"k3v9, k3w1, k4, k5-0, k5-1, …$"):
        Records(store).look_up("k")


@pytest.mark.parametrize("name", ["", "v9", "K3V9", "../k3v9"])
def test_what_no_id_begins_with_is_refused(store: MemoryStore, name: str) -> None:
    with pytest.raises(RequestRefused, match=r"there is no message .*: agenthub messages lists"):
        Records(store).look_up(name)
