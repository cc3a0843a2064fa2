"""What sessions tell of themselves: that they are free again, and what a turn has cost."""

from __future__ import annotations

import pytest

from agenthub_core import Notify, RelayUnreachable, SessionBusy, SessionUnknown, Severity
from agenthub_core.model import Usage
from agenthub_core.protocol import TurnEnded
from agenthub_core.testing import NOON
from tests.unit.builders import Story, agent, injected, message, of, seconds, session, topics

BUSY = SessionBusy("at work in another process")


def refused(*, agents: bool = False) -> Story:
    """Bob's session, which some know as polly, is at work and took nothing."""
    known = agent("polly", session_id=None, slug="", role="reviewer", directory="/projects/bob")
    story = Story("bob", agents=[known] if agents else [])
    story.arrives(message())
    story.fails(BUSY)
    return story


# ---------------------------------------------------------------------------------- free again


def test_what_a_busy_session_did_not_take_goes_there_when_it_is_free() -> None:
    story = refused()
    story.arrives(message(id="m2"))
    assert injected(story.is_freed()) == [("m1", "bob"), ("m2", "bob")]


def test_that_is_so_for_each_of_its_names() -> None:
    story = refused(agents=True)
    story.arrives(message(id="m2", recipient="polly"))
    story.fails(BUSY, "m2", "polly")
    assert injected(story.is_freed()) == [("m1", "bob")]
    assert injected(story.holds()) == [("m2", "polly")]


def test_another_sessions_freedom_is_nothing_to_it() -> None:
    story = refused()
    assert injected(story.is_freed("carol")) == []


def test_a_session_that_was_not_busy_is_given_nothing_before_its_time() -> None:
    story = Story("bob")
    story.arrives(message())
    story.fails(RelayUnreachable("timed out"))
    assert injected(story.is_freed()) == []
    assert injected(story.wait(seconds(0.2))) == [("m1", "bob")]


def test_a_session_that_was_freed_while_it_was_asked_is_asked_again_at_once() -> None:
    story = Story("bob")
    story.arrives(message())
    assert injected(story.is_freed()) == [], "nothing goes beside it"
    assert injected(story.fails(BUSY)) == [("m1", "bob")]


def test_that_serves_one_attempt_and_the_next_waits_again() -> None:
    story = Story("bob")
    story.arrives(message())
    story.is_freed()
    story.fails(BUSY)
    assert injected(story.fails(BUSY)) == []
    assert injected(story.wait(seconds(1))) == [("m1", "bob")]


def test_what_goes_together_is_asked_for_again_together() -> None:
    story = Story(listed=True)
    story.arrives(message(id="m1"), message(id="m2"))
    story.lists(session("bob"))
    story.is_freed()
    assert injected(story.fails(BUSY, "m1")) == []
    assert injected(story.is_not_tried("m2")) == [("m1", "bob"), ("m2", "bob")]


def test_while_the_relay_is_down_a_free_session_is_given_nothing() -> None:
    story = refused()
    story.lists_nothing(RelayUnreachable("connection refused"))
    assert injected(story.is_freed()) == []


@pytest.mark.parametrize("slug", ["bob", "nobody"])
def test_a_session_for_which_nothing_waits_may_be_freed_as_often_as_it_likes(slug: str) -> None:
    story = Story("bob")
    assert story.is_freed(slug) + story.is_freed(slug) == ()


def test_a_session_that_is_gone_cannot_be_freed() -> None:
    story = Story("bob")
    story.arrives(message())
    story.fails(SessionUnknown("deleted"))
    assert injected(story.is_freed()) == []


# ------------------------------------------------------------------------------- what it has cost


def ended(slug: str = "bob", *, caused: bool = True) -> TurnEnded:
    return TurnEnded(
        session_id=f"ses_{slug}",
        began=NOON,
        ended=NOON + seconds(12),
        usage=Usage(input=10, output=20, cache_read=30, cache_write=40, cost=0.5),
        caused=caused,
    )


def test_what_a_turn_has_cost_is_told_to_whoever_counts_and_to_no_person() -> None:
    actions = Story("bob").tell(ended())
    (told,) = of(Notify, actions)
    assert (told.severity, topics(actions)) == (Severity.DEBUG, [])
    assert told.topic == "turn.ended"
    assert told.text == "bob has worked for 12 s, for a message"
    assert told.fields == {
        "agent": "bob",
        "session": "ses_bob",
        "cause": "message",
        "began": NOON.isoformat(),
        "seconds": 12.0,
        "input": 10,
        "output": 20,
        "cache_read": 30,
        "cache_write": 40,
        "cost": 0.5,
    }


def test_a_turn_for_its_user_is_told_as_such() -> None:
    (told,) = of(Notify, Story("bob").tell(ended(caused=False)))
    assert told.text == "bob has worked for 12 s, for its user"
    assert told.fields["cause"] == "user"


def test_the_turn_of_a_session_that_is_no_agents_is_not_told() -> None:
    assert Story("bob").tell(ended("nobody")) == ()


def test_the_turn_of_an_agent_that_lost_its_session_is_not_told() -> None:
    story = Story("bob")
    story.arrives(message())
    story.fails(SessionUnknown("deleted"))
    assert story.tell(ended()) == ()
