"""What the hub counts, under which names, and how the figures get into their file.

The histories are told to a real broker: what is counted is what it does, not what we think it does.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from agenthub_adapters.metrics import Metrics, Prices, named
from agenthub_core import (
    Event,
    PromptInvalid,
    Receipt,
    RelayUnreachable,
    Session,
    SessionUnknown,
    StoreUnwritable,
    Usage,
)
from agenthub_core.coordinator import TITLE
from agenthub_core.protocol import (
    MalformedArrived,
    MessageWithdrawn,
    Oriented,
    Quarantined,
    SessionOpened,
    TurnEnded,
)
from tests.unit.builders import FAULT, Actions, Story, message, session

REFERENCE = {
    "agent_hub_messages_total": "counter",
    "agent_hub_messages_failed_total": "counter",
    "agent_hub_injections_total": "counter",
    "agent_hub_injections_retried_total": "counter",
    "agent_hub_injections_failed_total": "counter",
    "agent_hub_agents_auto_created_total": "counter",
    "agent_hub_sessions_oriented_total": "counter",
    "agent_hub_message_queue_size": "gauge",
    "agent_hub_coordinator_messages_total": "counter",
    "agent_hub_coordinator_tokens_input": "gauge",
    "agent_hub_coordinator_tokens_output": "gauge",
    "agent_hub_coordinator_tokens_cache_read": "gauge",
    "agent_hub_coordinator_tokens_cache_write": "gauge",
    "agent_hub_coordinator_estimated_cost_usd": "gauge",
}
"""Those names of opencode-agent-hub that the hub has something to say about."""


A_WHILE = timedelta(seconds=5)
"""Long enough for a retry."""


class Counted(Story):
    """A broker whose history is counted."""

    def __init__(self, *here: str, prices: Prices | None = None) -> None:
        self.metrics = Metrics(prices)
        super().__init__(*here)

    def tell(self, event: Event) -> Actions:
        actions = super().tell(event)
        self.metrics(event, actions)
        return actions

    def count(self, name: str) -> float:
        return self.metrics.totals()[f"agent_hub_{name}"]


def exported(path: Path) -> Mapping[str, float]:
    """Every figure in the file, as Prometheus reads it."""
    return {
        named(sample.name, sample.labels): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
        if not sample.name.endswith("_created")  # the library's own: since when it counts
    }


# ---------------------------------------------------------------------------------------- counting


def test_the_names_are_those_of_the_reference(tmp_path: Path) -> None:
    Metrics().write(tmp_path / "metrics.prom")

    text = (tmp_path / "metrics.prom").read_text()
    kinds = {
        sample.name: family.type
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    assert kinds == REFERENCE
    for name in REFERENCE:
        assert f"# HELP {name} " in text


def test_at_first_nothing_has_happened() -> None:
    assert Metrics().totals() == dict.fromkeys(REFERENCE, 0)


def test_a_day_at_the_hub(tmp_path: Path) -> None:
    """Two agents, one told; two messages are delivered, one late; one is nobody's; one waits."""
    story = Counted("alice", "bob")
    receipt = Receipt(prompt_id="p", session_id="ses_alice")
    story.tell(Oriented(recipient="alice", receipt=receipt))
    story.arrives(message(id="m1"))
    story.holds("m1")
    story.settled("m1")

    story.arrives(message(id="m2"))
    story.fails(RelayUnreachable("no answer"), "m2")
    story.wait(A_WHILE)
    story.holds("m2")
    story.settled("m2")

    story.arrives(message(id="m3", recipient="nobody"))
    story.wait(story.policy.message_ttl)
    story.settled("m3")
    story.arrives(message(id="m4", recipient="nobody", timestamp=story.now))

    story.metrics.write(tmp_path / "metrics.prom")

    assert exported(tmp_path / "metrics.prom") == dict.fromkeys(REFERENCE, 0) | {
        "agent_hub_messages_total": 4,
        "agent_hub_messages_failed_total": 1,
        "agent_hub_injections_total": 2,
        "agent_hub_injections_retried_total": 1,
        "agent_hub_injections_failed_total": 0,
        "agent_hub_agents_auto_created_total": 2,
        "agent_hub_sessions_oriented_total": 1,
        "agent_hub_message_queue_size": 1,
    }


def test_a_message_counts_once_however_often_it_is_told_of() -> None:
    """Its file appears, is closed, is touched; and once it is to be settled it still lies there."""
    story = Counted("bob")
    for _ in range(3):
        story.arrives(message())
    story.holds()
    story.arrives(message())
    assert story.count("message_queue_size") == 1

    story.settled()

    assert story.count("messages_total") == 1
    assert story.count("message_queue_size") == 0


def test_a_message_under_a_key_that_was_used_before_is_another_one() -> None:
    story = Counted("bob")
    for text in ("first", "second"):
        story.arrives(message(content=text))
        story.holds()
        story.settled()
    assert story.count("messages_total") == 2
    assert story.count("injections_total") == 2

    for text in ("third", "fourth"):
        story.arrives(message(content=text))
        story.fails(PromptInvalid("too long"))
        story.settled()
    assert story.count("messages_total") == 4
    assert story.count("messages_failed_total") == 2


def test_a_dead_letter_counts_once_however_often_it_must_be_settled() -> None:
    story = Counted("bob")
    story.arrives(message(recipient="nobody"))
    story.wait(story.policy.message_ttl)
    for _ in range(3):
        story.settle_fails(StoreUnwritable("no space"))
        story.goes_on()
    assert story.count("message_queue_size") == 1

    story.settled()

    assert story.count("messages_failed_total") == 1
    assert story.count("message_queue_size") == 0


def test_an_injection_has_failed_when_it_is_not_tried_again() -> None:
    story = Counted("bob")
    story.arrives(message())
    story.fails(RelayUnreachable("no answer"))
    story.wait(A_WHILE)
    assert story.count("injections_retried_total") == 1
    assert story.count("injections_failed_total") == 0

    story.fails(PromptInvalid("too long"))
    story.settled()

    assert story.count("injections_failed_total") == 1
    assert story.count("messages_failed_total") == 1


def test_of_several_recipients_those_count_that_it_did_not_reach() -> None:
    story = Counted("alice", "bob", "carol")
    story.arrives(message(recipient="all"))
    story.holds("m1", "bob")
    story.fails(SessionUnknown("it was deleted"), "m1", "carol")
    story.wait(story.policy.message_ttl)
    story.settled()

    assert story.count("injections_total") == 1
    assert story.count("injections_failed_total") == 1


def test_what_is_no_message_has_failed_once() -> None:
    story = Counted()
    for _ in range(3):
        story.tell(MalformedArrived(key="bad", fault=FAULT))
    story.tell(Quarantined(key="bad"))
    assert story.count("messages_failed_total") == 1

    story.tell(MalformedArrived(key="bad", fault=FAULT))
    assert story.count("messages_failed_total") == 2
    assert story.count("messages_total") == 0


def test_what_its_sender_completes_or_withdraws_is_no_failure_of_the_hub() -> None:
    story = Counted()
    story.tell(MalformedArrived(key="m1", fault=FAULT))
    story.arrives(message())
    assert story.count("message_queue_size") == 1

    story.tell(MessageWithdrawn(key="m1"))

    assert story.count("message_queue_size") == 0
    assert story.count("messages_failed_total") == 1

    story.tell(MalformedArrived(key="m1", fault=FAULT))
    assert story.count("messages_failed_total") == 2


def test_two_hubs_do_not_count_each_others_messages() -> None:
    story, other = Counted("bob"), Counted("bob")
    story.arrives(message())
    assert other.count("messages_total") == 0
    assert not any(family.name.startswith("agent_hub") for family in REGISTRY.collect())


# -------------------------------------------------------------------------------------- exporting


def test_the_file_has_what_the_totals_say(tmp_path: Path) -> None:
    story = Counted("alice", "bob")
    story.arrives(message())
    path = tmp_path / "metrics.prom"

    story.metrics.write(path)

    assert exported(path) == story.metrics.totals()
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600


def test_who_is_reading_the_file_goes_on_reading_the_old_one(tmp_path: Path) -> None:
    story = Counted("bob")
    path = tmp_path / "metrics.prom"
    story.metrics.write(path)
    before = path.read_text()

    with path.open() as reader:
        beginning = reader.read(10)
        story.arrives(message())
        story.metrics.write(path)
        assert beginning + reader.read() == before

    assert exported(path)["agent_hub_messages_total"] == 1


def test_a_disk_that_takes_no_more_is_told_and_the_old_figures_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.prom"
    metrics = Metrics()
    metrics.write(path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as system:
        system.setattr(os, "rename", full)
        with pytest.raises(StoreUnwritable, match=f"{path} cannot be written: No space left"):
            metrics.write(path)

    assert list(tmp_path.iterdir()) == [path]
    assert exported(path) == metrics.totals()


def test_a_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "metrics.prom"
    with pytest.raises(StoreUnwritable, match=f"{path} cannot be written"):
        Metrics().write(path)


# ------------------------------------------------------------------------------- the coordinator


def own(**fields: Any) -> Session:
    return session("odd", id="ses_own", title=TITLE, **fields)


def test_the_coordinators_tokens_and_cost_are_those_of_its_session() -> None:
    story = Counted(prices=Prices(input=3, output=15))
    story.tell(SessionOpened(session=own()))

    usage = Usage(input=1000, output=200, cache_read=50, cache_write=7, cost=0.25)
    story.lists(session("bob", usage=Usage(input=9)), own(usage=usage))
    story.lists()  # nothing was done since

    assert story.count("coordinator_tokens_input") == 1000
    assert story.count("coordinator_tokens_output") == 200
    assert story.count("coordinator_tokens_cache_read") == 50
    assert story.count("coordinator_tokens_cache_write") == 7
    assert story.count("coordinator_estimated_cost_usd") == 0.25


def test_where_opencode_knows_no_price_the_users_are_taken() -> None:
    prices = Prices(input=3, output=15, cache_read=0.3, cache_write=3.75)
    story = Counted(prices=prices)
    million = 1_000_000
    usage = Usage(input=million, output=million, cache_read=million, cache_write=million)

    story.tell(SessionOpened(session=own(usage=usage)))

    assert story.count("coordinator_estimated_cost_usd") == pytest.approx(22.05)


def test_what_an_agent_works_rests_and_costs_is_counted_by_what_caused_it() -> None:
    story = Counted("bob")

    def works(began: int, ended: int, *, caused: bool) -> None:
        story.tell(
            TurnEnded(
                session_id="ses_bob",
                began=story.now + timedelta(seconds=began),
                ended=story.now + timedelta(seconds=ended),
                usage=Usage(input=100, output=20, cache_read=7, cache_write=3, cost=0.25),
                caused=caused,
            )
        )

    works(0, 4, caused=False)
    works(10, 11, caused=True)
    works(12, 14, caused=True)

    assert story.count('agent_turns_total{agent="bob",cause="user"}') == 1
    assert story.count('agent_turns_total{agent="bob",cause="message"}') == 2
    assert story.count('agent_busy_seconds_total{agent="bob"}') == 7
    assert story.count('agent_idle_seconds_total{agent="bob"}') == 7
    assert story.count('agent_tokens_total{agent="bob",kind="input"}') == 300
    assert story.count('agent_tokens_total{agent="bob",kind="output"}') == 60
    assert story.count('agent_tokens_total{agent="bob",kind="cache_read"}') == 21
    assert story.count('agent_tokens_total{agent="bob",kind="cache_write"}') == 9
    assert story.count('agent_cost_usd_total{agent="bob"}') == 0.75


def test_a_turn_of_nobodys_session_is_not_counted() -> None:
    story = Counted()
    usage = Usage(input=1)
    story.tell(
        TurnEnded(session_id="ses_x", began=story.now, ended=story.now, usage=usage, caused=False)
    )
    assert not [name for name in story.metrics.totals() if "agent_turns" in name]


def test_what_the_coordinator_writes_is_counted() -> None:
    story = Counted("bob")
    story.arrives(message(id="m1", sender="coordinator"), message(id="m2"))
    assert story.count("coordinator_messages_total") == 1
