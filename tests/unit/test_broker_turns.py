"""How the broker sees to it that what was delivered is also answered."""

from __future__ import annotations

from datetime import timedelta

from agenthub_core import (
    Backoff,
    Notify,
    Policy,
    RelayUnreachable,
    SessionBusy,
    SessionUnknown,
    TurnFailed,
    TurnState,
)
from agenthub_core.protocol import CheckTurn, ResumeTurn, TurnUnseen
from tests.unit.builders import Actions, Story, message, of, seconds, session, topics

RUNNING, ANSWERED, FAILED, ABANDONED = (
    TurnState.RUNNING,
    TurnState.ANSWERED,
    TurnState.FAILED,
    TurnState.ABANDONED,
)
SOON, LATER = seconds(1), seconds(5)
LONG = timedelta(minutes=10)


def delivered(*, resumes: int = 3) -> Story:
    """A message was delivered to bob, who was idle before."""
    policy = Policy(backoff=Backoff(quick=resumes), session_poll=LATER, turn_check=SOON)
    story = Story("bob", policy=policy)
    story.goes_on()
    story.turn(TurnState.NONE)
    story.arrives(message())
    story.holds()
    story.settled()
    return story


def looks(actions: Actions) -> list[str]:
    return [each.session_id for each in of(CheckTurn, actions)]


def resumed(actions: Actions) -> list[str]:
    return [each.session_id for each in of(ResumeTurn, actions)]


def next_look(story: Story) -> timedelta:
    """How long it takes until bob's turn is looked at again."""
    began = story.now
    while not looks(story.goes_on()):
        pass
    return story.now - began


def test_after_a_burst_there_is_one_look_and_it_follows_the_last_message() -> None:
    story = delivered()
    story.wait(seconds(0.9))
    story.arrives(message(id="m2"))
    story.holds("m2")
    story.settled("m2")
    assert next_look(story) == SOON


def test_sessions_found_at_the_start_are_looked_at_for_what_an_earlier_run_delivered() -> None:
    story = Story("bob", "carol")
    assert looks(story.wait(timedelta(0))) == ["ses_bob", "ses_carol"]


def test_a_session_that_appears_later_is_not_looked_at_before_a_delivery() -> None:
    story = Story(listed=True)
    story.lists(session("bob"))
    assert looks(story.wait(LONG)) == []


def test_a_turn_is_looked_at_soon_after_its_delivery() -> None:
    assert next_look(delivered()) == SOON


def test_a_running_turn_is_looked_at_again_and_an_answered_one_is_not() -> None:
    story = delivered()
    next_look(story)
    for _ in range(3):
        story.turn(RUNNING)
        assert next_look(story) == LATER
    assert topics(story.turn(ANSWERED)) == []
    assert looks(story.wait(LONG)) == []


def test_two_deliveries_in_a_row_make_one_look() -> None:
    story = delivered()
    story.arrives(message(id="m2"))
    story.holds("m2")
    assert looks(story.wait(SOON)) == ["ses_bob"]


def test_a_failed_turn_is_told_with_its_error() -> None:
    story = delivered()
    next_look(story)
    (told,) = of(Notify, story.turn(FAILED, error=TurnFailed("no such model")))
    assert told.topic == "turn.failed"
    assert told.text == "bob holds a message, but its turn on it failed: no such model"
    assert looks(story.wait(LONG)) == []


def test_a_turn_found_abandoned_twice_is_run_again() -> None:
    story = delivered()
    next_look(story)
    assert resumed(story.turn(ABANDONED)) == []
    assert next_look(story) == SOON
    actions = story.turn(ABANDONED)
    assert of(ResumeTurn, actions) == [ResumeTurn(session_id="ses_bob", prompt_id="p")]
    assert topics(actions) == ["turn.resumed"]
    assert next_look(story) == SOON


def test_a_turn_that_is_cut_off_again_and_again_is_given_up_and_told() -> None:
    story = delivered(resumes=2)
    told: list[str] = []
    while looks(story.wait(LONG)):
        told += topics(story.turn(ABANDONED))
    assert told == ["turn.resumed", "turn.resumed", "turn.abandoned"]


def test_a_turn_is_not_run_again_while_another_message_is_on_its_way_there() -> None:
    story = delivered()
    story.arrives(message(id="m2"))
    for _ in range(4):
        assert next_look(story) == SOON
        assert resumed(story.turn(ABANDONED)) == []
    story.fails(SessionBusy("at work in another process"), "m2")
    assert resumed(story.turn(ABANDONED)) == ["ses_bob"]


def test_a_look_that_failed_is_repeated() -> None:
    story = delivered()
    next_look(story)
    story.tell(TurnUnseen(session_id="ses_bob", error=RelayUnreachable("timed out")))
    assert next_look(story) == LATER


def test_the_turn_of_a_session_that_is_gone_is_not_looked_at_again() -> None:
    story = delivered()
    next_look(story)
    story.tell(TurnUnseen(session_id="ses_bob", error=SessionUnknown("deleted")))
    assert looks(story.wait(LONG)) == []


def test_the_turn_of_an_agent_that_lost_its_session_is_not_run_again() -> None:
    story = delivered()
    story.arrives(message(id="m2"))
    story.fails(SessionUnknown("deleted"), "m2")
    next_look(story)
    for _ in range(3):
        assert resumed(story.turn(ABANDONED)) == []
    assert looks(story.wait(LONG)) == []
