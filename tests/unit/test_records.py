"""How a message is found by its name. What else is found is told with the gateway."""

from __future__ import annotations

import pytest

from agenthub_core import Outcome, Records, RequestRefused, Settlement
from agenthub_core.testing import NOON, MemoryStore
from tests.unit.builders import message


@pytest.fixture
def store() -> MemoryStore:
    """Two messages wait, two are settled."""
    store = MemoryStore()
    for name in ("k3v9x", "k3v9y"):
        settled = message(id=name)
        store.settle(
            [Settlement(key=store.put(settled), message=settled, outcome=Outcome.READ, at=NOON)]
        )
    for name in ("k4", "waits"):
        store.put(message(id=name))
    return store


@pytest.mark.parametrize(("name", "found"), [("k3v9x", "k3v9x"), ("wait", "waits"), ("k4", "k4")])
def test_a_message_is_found_by_the_beginning_of_its_id(
    store: MemoryStore, name: str, found: str
) -> None:
    assert [entry.message.id for entry in Records(store).look_up(name)] == [found]


def test_a_whole_id_is_no_beginning_of_another(store: MemoryStore) -> None:
    store.put(message(id="waits-longer"))
    assert [entry.message.id for entry in Records(store).look_up("waits")] == ["waits"]


@pytest.mark.parametrize("name", ["", "w", "wai"])
def test_by_a_letter_or_three_none_is_found(store: MemoryStore, name: str) -> None:
    with pytest.raises(RequestRefused, match=f"no message '{name}', and a beginning .* has 4 char"):
        Records(store).look_up(name)


def test_where_several_begin_so_they_are_named(store: MemoryStore) -> None:
    with pytest.raises(RequestRefused, match=r"2 messages begin with 'k3v9': k3v9x, k3v9y$"):
        Records(store).look_up("k3v9")


def test_where_many_begin_so_a_few_are_named(store: MemoryStore) -> None:
    for number in range(4):
        store.put(message(id=f"k3v9z{number}"))
    with pytest.raises(RequestRefused, match=r"k3v9x, k3v9y, k3v9z0, k3v9z1, k3v9z2, …$"):
        Records(store).look_up("k3v9")


@pytest.mark.parametrize("name", ["", "v9x", "3v9x", "K3V9", "../k3v9"])
def test_what_no_id_begins_with_is_refused(store: MemoryStore, name: str) -> None:
    with pytest.raises(RequestRefused, match=r"there is no message .*: agenthub messages lists"):
        Records(store).look_up(name)
