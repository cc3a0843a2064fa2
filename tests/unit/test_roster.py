"""The roster knows every agent by name and by session, and says what is worth saving."""

from __future__ import annotations

from agenthub_core.roster import Roster
from agenthub_core.testing import NOON
from tests.unit.builders import agent, seconds, session


def test_an_agent_is_found_by_name_and_by_session() -> None:
    roster = Roster([])
    bob = roster.register(session("bob"))
    assert roster.get("bob") == roster.of_session("ses_bob") == bob
    assert (bob.id, bob.session_id, bob.directory, bob.last_seen) == (
        "bob",
        "ses_bob",
        "/projects/bob",
        NOON,
    )
    assert roster.get("carol") is roster.of_session("ses_carol") is None


def test_agents_of_earlier_runs_keep_their_sessions() -> None:
    bob = agent("bob", session_id="ses_old")
    roster = Roster([bob])
    assert roster.of_session("ses_old") == bob
    assert list(roster) == [bob]


def test_only_later_activity_is_news() -> None:
    roster = Roster([agent("bob")])
    assert not roster.seen(agent("bob"), NOON)
    assert roster.seen(agent("bob"), NOON + seconds(1))
    assert roster.get("bob") == agent("bob", last_seen=NOON + seconds(1))


def test_an_agent_is_saved_when_it_is_new_and_then_at_most_once_a_minute() -> None:
    roster = Roster([])
    bob = roster.register(session("bob"))
    saved = []
    for second in range(0, 180, 5):
        roster.seen(bob, NOON + seconds(second))
        if roster.to_save("bob") is not None:
            saved.append(second)
    assert saved == [0, 60, 120]


def test_what_was_loaded_counts_as_saved() -> None:
    roster = Roster([agent("bob")])
    assert roster.to_save("bob") is None


def test_an_agent_without_its_session_keeps_its_name_and_is_saved_at_once() -> None:
    roster = Roster([agent("bob")])
    gone = roster.disconnect("bob")
    assert gone == agent("bob", session_id=None) == roster.to_save("bob")
    assert roster.of_session("ses_bob") is None


def test_a_session_that_comes_back_is_the_agent_it_was_and_is_saved_at_once() -> None:
    roster = Roster([agent("bob")])
    roster.disconnect("bob")
    roster.to_save("bob")
    back = roster.register(session("bob"))
    assert back.id == "bob"
    assert roster.to_save("bob") == back


def test_another_session_with_the_same_slug_is_another_agent() -> None:
    roster = Roster([agent("bob")])
    roster.disconnect("bob")
    assert roster.register(session("bob", id="ses_123456")).id == "bob-123456"
