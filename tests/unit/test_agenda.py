"""The agenda against a model so plain that it needs no proof: a dict, and its minimum."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agenthub_core.agenda import Agenda
from agenthub_core.testing import NOON
from tests.unit.builders import seconds

NAMES = st.sampled_from("abcd")
MOMENTS = st.integers(0, 5).map(lambda number: NOON + seconds(number))


def test_an_appointment_is_due_at_its_time_and_not_before() -> None:
    agenda = Agenda[str]()
    agenda.set("tea", NOON)
    assert agenda.pop_due(NOON - timedelta(microseconds=1)) is None
    assert agenda.pop_due(NOON) == "tea"
    assert agenda.pop_due(NOON) is None


def test_appointments_at_the_same_time_keep_the_order_they_were_made_in() -> None:
    agenda = Agenda[str]()
    for name in ("c", "a", "b"):
        agenda.set(name, NOON)
    assert [agenda.pop_due(NOON) for _ in range(3)] == ["c", "a", "b"]


def test_an_appointment_moved_a_thousand_times_happens_once_at_its_last_time() -> None:
    agenda = Agenda[str]()
    for number in range(1000):
        agenda.set("tea", NOON - seconds(number))
        agenda.set("supper", NOON + seconds(number))
    assert agenda.next() == NOON - seconds(999)
    assert agenda.pop_due(NOON) == "tea"
    assert agenda.next() == NOON + seconds(999)


class AgendaMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.agenda = Agenda[str]()
        self.model = dict[str, datetime]()

    @rule(name=NAMES, when=MOMENTS, times=st.sampled_from([1, 1, 100]))
    def set(self, name: str, when: datetime, times: int) -> None:
        for _ in range(times):
            self.agenda.set(name, when)
        self.model[name] = when

    @rule(name=NAMES)
    def cancel(self, name: str) -> None:
        self.agenda.cancel(name)
        self.model.pop(name, None)

    @rule(now=MOMENTS)
    def pop_due(self, now: datetime) -> None:
        earliest = min(self.model.values(), default=None)
        name = self.agenda.pop_due(now)
        if earliest is None or earliest > now:
            assert name is None
        else:
            assert name is not None
            assert self.model.pop(name) == earliest

    @invariant()
    def both_agree(self) -> None:
        assert self.agenda.next() == min(self.model.values(), default=None)
        assert {name for name in "abcd" if name in self.agenda} == set(self.model)


TestAgenda = AgendaMachine.TestCase
TestAgenda.settings = settings(max_examples=50, stateful_step_count=30)
